// One variant of a bundle on transformers.js, by its own file names and `transformers.js_config`.

import {
    InterruptableStoppingCriteria,
    TextStreamer,
    env,
    pipeline,
} from './vendor/transformers.min.js';

// transformers.js's name of what a file is, by its name.
const DTYPES = {
    'onnx/model.onnx': 'fp32',
    'onnx/model_fp16.onnx': 'fp16',
    'onnx/model_int8.onnx': 'int8',
    'onnx/model_q4.onnx': 'q4',
};

env.allowLocalModels = true;
env.allowRemoteModels = false;
// Its cache goes by address: a bundle that changed would stay what it was.
env.useBrowserCache = false;
env.useWasmCache = false;

const COMPANIONS = ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json'];

// Its own choice, asyncify, is twice as large and has no CPU kernel of GatherBlockQuantized, with
// which the embedding of int8 and int4 begins.
const BUILDS = { wasm: 'ort-wasm-simd-threaded', webgpu: 'ort-wasm-simd-threaded.asyncify' };

export async function load(bundle, name, { device, threads, report }) {
    const variant = bundle.variants[name];
    checkVariant(name, variant);
    await bundle.checkThere([...COMPANIONS, ...variant.files]);
    const config = await bundle.readJson('config.json');
    if (!config['transformers.js_config']) {
        throw new Error(
            'the bundle was made before gpt2edge wrote transformers.js_config into config.json: ' +
                'make it anew with `gpt2edge pack`',
        );
    }
    const place = new URL(bundle.url);
    const folder = place.pathname.split('/').filter(Boolean).at(-1);
    if (place.origin !== location.origin || !folder) {
        throw new Error('transformers.js opens bundles in a folder of the server of this page only');
    }
    // As a path: of a whole address it believes that no tokenizer is there.
    env.localModelPath = new URL('..', place).pathname;
    const build = new URL(`vendor/${BUILDS[device]}`, import.meta.url).href;
    env.backends.onnx.wasm.wasmPaths = { mjs: `${build}.mjs`, wasm: `${build}.wasm` };
    env.backends.onnx.wasm.numThreads = threads;
    let write;
    try {
        write = await pipeline('text-generation', folder, {
            device,
            ...named(variant),
            progress_callback: ({ status, file, loaded, total }) => {
                if (status === 'progress') report(`${file}: ${loaded} of ${total} bytes`);
            },
        });
    } catch (reason) {
        const words = String(reason?.message ?? reason).split('\n')[0];
        throw new Error(`transformers.js ${env.version} cannot open ${name} on ${device}: ${words}`);
    }
    return {
        generate: (prompt, request) => generate(write, config, prompt, request),
        close: () => write.dispose(),
    };
}

function checkVariant(name, variant) {
    if (variant.static || !['float32', 'float16'].includes(variant.kv_dtype)) {
        const why = variant.static ? 'is of fixed shapes' : `keeps its cache in ${variant.kv_dtype}`;
        throw new Error(`${name} ${why}, which transformers.js cannot run: choose another variant`);
    }
    if (variant.files.some((file) => ![variant.model, `${variant.model}_data`].includes(file))) {
        throw new Error(
            `${name} has its weights in another variant's file, of which transformers.js cannot ` +
                'be told: choose another variant, or the other page',
        );
    }
}

// Any other file is one of fp32 to transformers.js, of another name.
const named = ({ model }) =>
    DTYPES[model]
        ? { dtype: DTYPES[model] }
        : { dtype: 'fp32', model_file_name: model.split('/').at(-1).replace(/\.onnx$/, '') };

async function generate(write, config, prompt, { count, temperature, onText, stopped }) {
    const given = write.tokenizer.encode(prompt).length;
    if (!given) throw new Error('the prompt is empty; GPT-2 needs a token to begin with');
    if (given + count - 1 > config.n_positions) {
        throw new Error(
            `${given} prompt tokens and ${count} new ones exceed the context window of ${config.n_positions}`,
        );
    }
    const ids = [];
    const stop = new InterruptableStoppingCriteria();
    const times = [performance.now()];
    const streamer = new TextStreamer(write.tokenizer, {
        skip_prompt: true,
        callback_function: onText,
        token_callback_function: (tokens) => {
            for (const token of tokens.map(Number)) {
                if (token === config.eos_token_id) continue;
                ids.push(token);
                times.push(performance.now());
            }
            if (stopped()) stop.interrupt();
        },
    });
    await write(prompt, {
        max_new_tokens: count,
        do_sample: temperature > 0,
        ...(temperature > 0 && { temperature, top_k: 0 }),
        streamer,
        stopping_criteria: stop,
    });
    return { ids, promptTokens: given, times };
}
