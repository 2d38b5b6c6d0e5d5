// What a browser must have before anything is downloaded. Nothing is chosen in place of what was
// asked for: where it is missing, the Error says so, and what to do.

export async function checkDevice(device, threads) {
    if (device === 'webgpu') return checkWebGPU();
    if (!Number.isInteger(threads) || threads < 1) {
        throw new Error('threads must be a whole number above 0');
    }
    if (threads > 1 && !globalThis.crossOriginIsolated) {
        throw new Error(
            'WASM threads are missing: this page is not cross-origin isolated. Serve it with ' +
                'serve.py, or from any server over https that sends ' +
                '"Cross-Origin-Opener-Policy: same-origin" and ' +
                '"Cross-Origin-Embedder-Policy: require-corp"; or choose 1 thread.',
        );
    }
}

async function checkWebGPU() {
    if (!navigator.gpu) {
        throw new Error(
            'WebGPU is missing: this browser has none, or the page came neither over https nor ' +
                'from localhost. Choose CPU (WASM).',
        );
    }
    if (!(await navigator.gpu.requestAdapter())) {
        throw new Error(
            'WebGPU is missing: the browser has it, but found no GPU to use. Choose CPU (WASM).',
        );
    }
}
