// One variant of a bundle on onnxruntime-web: prefill, then a token a step with the KV cache.

import { likeliest, drawn } from './choose.js';
import { Tokenizer } from './tokenizer.js';

// WASM alone is half the download of the build that has WebGPU too.
const MODULES = { wasm: './vendor/ort.wasm.min.mjs', webgpu: './vendor/ort.webgpu.min.mjs' };
const CACHES = { float32: Float32Array, float16: Uint16Array };

export async function load(bundle, name, { device, threads, report }) {
    const variant = bundle.variants[name];
    checkVariant(name, variant);
    const ort = await import(MODULES[device]);
    ort.env.wasm.wasmPaths = new URL('vendor/', import.meta.url).href;
    ort.env.wasm.numThreads = threads;
    const config = await bundle.readJson('config.json');
    const tokenizer = await Tokenizer.of(bundle);
    const presents = layers(config, 'present');
    const files = {};
    for (const file of variant.files) {
        files[file] = await bundle.read(file, (got) =>
            report(`${file}: ${(got / 1e6).toFixed(1)} of ${(bundle.files[file].bytes / 1e6).toFixed(1)} MB`),
        );
    }
    report('Opening the graph ...');
    const weights = variant.files.filter((file) => file !== variant.model);
    let session;
    try {
        session = await ort.InferenceSession.create(files[variant.model], {
            executionProviders: [device],
            externalData: weights.map((file) => ({ path: file.split('/').at(-1), data: files[file] })),
            // On a GPU the cache stays there between steps.
            ...(device === 'webgpu' && {
                preferredOutputLocation: Object.fromEntries(presents.map((key) => [key, 'gpu-buffer'])),
            }),
        });
    } catch (reason) {
        const version = ort.env.versions.web ?? ort.env.versions.common;
        throw new Error(
            `${name} cannot run in onnxruntime-web ${version} on ${device}: ${firstLine(reason)}; ` +
                'choose another variant or device',
        );
    }
    const model = { ort, session, config, tokenizer, presents, kv: variant.kv_dtype };
    return {
        generate: (prompt, request) => generate(model, prompt, request),
        close: () => session.release(),
    };
}

function checkVariant(name, variant) {
    if (variant.static) {
        throw new Error(`${name} is a graph of fixed shapes, for NPUs: this page needs another variant`);
    }
    if (!(variant.kv_dtype in CACHES)) {
        throw new Error(
            `${name} keeps its KV cache in ${variant.kv_dtype}: this page runs ` +
                `${Object.keys(CACHES).join(' and ')} caches, so choose another variant`,
        );
    }
}

const firstLine = (reason) => String(reason?.message ?? reason).split('\n')[0];

const layers = (config, prefix) =>
    Array.from({ length: config.n_layer }, (_, i) =>
        ['key', 'value'].map((half) => `${prefix}.${i}.${half}`),
    ).flat();

// Lets the browser draw, and hear the Stop button; setTimeout would wait 4 ms.
function breathe() {
    return new Promise((go) => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => {
            port1.close();
            go();
        };
        port2.postMessage(null);
    });
}

// Greedy where the temperature is 0. n prompt tokens and m new ones need n + m - 1 positions.
async function generate(model, prompt, { count, temperature, onText, stopped }) {
    const { ort, config, tokenizer } = model;
    const window = config.n_positions;
    const given = tokenizer.encode(prompt);
    if (!given.length) throw new Error('the prompt is empty; GPT-2 needs a token to begin with');
    if (given.length + count - 1 > window) {
        throw new Error(
            `${given.length} prompt tokens and ${count} new ones exceed the context window of ${window}`,
        );
    }
    const heads = config.n_head;
    const emptyShape = [1, heads, 0, config.n_embd / heads];
    const empty = () => new ort.Tensor(model.kv, new CACHES[model.kv](0), emptyShape);
    let cache = Object.fromEntries(layers(config, 'past_key_values').map((key) => [key, empty()]));
    const ids = [];
    const textOf = tokenizer.stream();
    const times = [performance.now()];
    let next = given;
    let seen = 0;
    try {
        while (ids.length < count && !stopped()) {
            const found = await step(model, next, seen, cache);
            seen += next.length;
            const last = found.logits.data.subarray(-config.vocab_size);
            const id = temperature > 0 ? drawn(last, temperature) : likeliest(last);
            cache = swapped(model, cache, found);
            if (id === config.eos_token_id) break;
            times.push(performance.now());
            ids.push(id);
            onText(textOf(id));
            next = [id];
            await breathe();
        }
        onText(textOf());
    } finally {
        for (const tensor of Object.values(cache)) tensor.dispose();
    }
    return { ids, promptTokens: given.length, times };
}

async function step({ ort, session }, ids, seen, cache) {
    const int64 = (numbers) => new ort.Tensor('int64', BigInt64Array.from(numbers, BigInt), [1, numbers.length]);
    return session.run({
        input_ids: int64(ids),
        attention_mask: int64(Array(seen + ids.length).fill(1)),
        position_ids: int64(ids.map((_, i) => seen + i)),
        ...cache,
    });
}

// The cache of the next step, and what the last one held of the GPU given back.
function swapped({ presents }, cache, found) {
    for (const tensor of Object.values(cache)) tensor.dispose();
    return Object.fromEntries(presents.map((key) => [key.replace('present', 'past_key_values'), found[key]]));
}
