// transformers.js in Node, by its forward, its generate() and its pipeline. The same job as
// worker.py reads, with "node_modules"; arrays go to a file of float32 beside the answers.

import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname } from 'node:path';

const job = JSON.parse(readFileSync(0, 'utf8'));
const require = createRequire(`${job.node_modules}/`);
const { AutoModelForCausalLM, AutoTokenizer, Tensor, env, pipeline } =
    require('@huggingface/transformers');
env.allowRemoteModels = false;
env.localModelPath = dirname(job.bundle);
const name = basename(job.bundle);

const matrix = (rows) =>
    new Tensor('int64', BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);

const columns = (rows, start, end) => rows.map((row) => row.slice(start, end));

function positions(mask) {
    return mask.map((row) => {
        let seen = 0;
        return row.map((real) => Math.max((seen += real) - 1, 0));
    });
}

// (B, S, V) of every call, the last position alone where there are steps, joined along S.
function joined(pieces, lastOnly) {
    const [batch, , width] = pieces[0].dims;
    const kept = pieces.map((piece) => (lastOnly ? 1 : piece.dims[1]));
    const total = kept.reduce((a, b) => a + b);
    const data = new Float32Array(batch * total * width);
    let at = 0;
    for (let row = 0; row < batch; row++) {
        pieces.forEach((piece, i) => {
            const length = piece.dims[1];
            const from = (row * length + length - kept[i]) * width;
            data.set(piece.data.subarray(from, from + kept[i] * width), at);
            at += kept[i] * width;
        });
    }
    return { data, shape: [batch, total, width] };
}

async function logits(model, { ids, mask, steps }) {
    const places = positions(mask);
    const length = ids[0].length;
    const pieces = [];
    let start = 0;
    let past = null;
    for (let end = length - steps; end <= length; end++) {
        const found = await model({
            input_ids: matrix(columns(ids, start, end)),
            attention_mask: matrix(columns(mask, 0, end)),
            position_ids: matrix(columns(places, start, end)),
            past_key_values: past,
        });
        pieces.push(found.logits);
        past = Object.fromEntries(
            Object.entries(found)
                .filter(([key]) => key.startsWith('present.'))
                .map(([key, value]) => [key.replace('present', 'past_key_values'), value]),
        );
        start = end;
    }
    return joined(pieces, steps > 0);
}

// Padded on the left, all rows together.
async function greedy(model, prompts, count) {
    const longest = Math.max(...prompts.map((prompt) => prompt.length));
    const padded = (fill) =>
        prompts.map((prompt) => [...Array(longest - prompt.length).fill(0), ...fill(prompt)]);
    const made = await model.generate({
        input_ids: matrix(padded((prompt) => prompt)),
        attention_mask: matrix(padded((prompt) => prompt.map(() => 1))),
        max_new_tokens: count,
        do_sample: false,
    });
    return made.tolist().map((row) => row.slice(longest).map(Number));
}

async function answer(graph) {
    const session_options = { logSeverityLevel: 3 };
    if (job.threads) session_options.intraOpNumThreads = job.threads;
    const options = { ...graph.transformers_js, session_options };
    const model = await AutoModelForCausalLM.from_pretrained(name, options);
    const arrays = {};
    for (const test of job.cases) {
        if (graph.cases.includes(test.name)) arrays[test.name] = await logits(model, test);
    }
    const found = { arrays, greedy: await greedy(model, job.prompts, job.new_tokens) };
    await model.dispose();
    if (graph.cases.includes('texts')) {
        const tokenizer = await AutoTokenizer.from_pretrained(name);
        found.tokens = job.texts.map((text) => tokenizer.encode(text));
        const write = await pipeline('text-generation', name, options);
        const made = await write(job.texts[0], {
            max_new_tokens: job.new_tokens,
            do_sample: false,
            return_full_text: false,
        });
        found.written = made[0].generated_text;
        await write.dispose();
    }
    return found;
}

for (const graph of job.graphs) {
    let found;
    try {
        found = await answer(graph);
    } catch (reason) {
        found = { failed: String(reason), arrays: {} };
    }
    const file = graph.answers.replace(/\.json$/, '');
    const arrays = Object.values(found.arrays);
    const bytes = arrays.map(({ data }) => Buffer.from(data.buffer));
    writeFileSync(`${file}.f32`, Buffer.concat(bytes));
    found.shapes = Object.fromEntries(
        Object.entries(found.arrays).map(([key, { shape }]) => [key, shape]),
    );
    delete found.arrays;
    writeFileSync(`${file}.part`, JSON.stringify(found));
    renameSync(`${file}.part`, graph.answers);
}
