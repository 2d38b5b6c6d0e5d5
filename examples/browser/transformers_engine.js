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

const vendor = new URL('vendor/', import.meta.url).href;
env.allowLocalModels = true;
env.allowRemoteModels = false;
// Its cache goes by address: a bundle that changed would stay what it was.
env.useBrowserCache = false;
env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = {
    mjs: `${vendor}ort-wasm-simd-threaded.asyncify.mjs`,
    wasm: `${vendor}ort-wasm-simd-threaded.asyncify.wasm`,
};

export async function load(bundle, name, { device, threads, report }) {
    const variant = bundle.variants[name];
    checkVariant(name, variant);
    const config = await bundle.readJson('config.json');
    if (!config['transformers.js_config']) {
        throw new Error(
            'the bundle was made before gpt2edge wrote transformers.js_config into config.json: ' +
                'make it anew with `gpt2edge pack`',
        );
    }
    const place = new URL(bundle.url);
    const parts = place.pathname.split('/').filter(Boolean);
    env.localModelPath = new URL('..', place).href;
    env.backends.onnx.wasm.numThreads = threads;
    let write;
    try {
        write = await pipeline('text-generation', parts.at(-1), {
            device,
            dtype: DTYPES[variant.model] ?? 'fp32',
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
    if (!(variant.model in DTYPES)) {
        throw new Error(
            `transformers.js cannot be told where ${name} has its weights: choose ` +
                'fp32, fp16, int8 or int4, or the other page',
        );
    }
}

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
            // The prompt's come first, all at once.
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
