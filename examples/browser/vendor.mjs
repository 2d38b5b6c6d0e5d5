// Copies what the two pages import into vendor/, so that they ask no other host for anything.

import { copyFileSync, mkdirSync, rmSync } from 'node:fs';

const FILES = [
    // CPU: the module, the script of its threads, and the code itself.
    'onnxruntime-web/dist/ort.wasm.min.mjs',
    'onnxruntime-web/dist/ort-wasm-simd-threaded.mjs',
    'onnxruntime-web/dist/ort-wasm-simd-threaded.wasm',
    // WebGPU, and everything that transformers.js runs.
    'onnxruntime-web/dist/ort.webgpu.min.mjs',
    'onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.mjs',
    'onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm',
    '@huggingface/transformers/dist/transformers.min.js',
];

const place = (path) => new URL(path, import.meta.url);
rmSync(place('vendor'), { recursive: true, force: true });
mkdirSync(place('vendor'));
for (const file of FILES) {
    copyFileSync(place(`node_modules/${file}`), place(`vendor/${file.split('/').at(-1)}`));
}
