// The form, and what both pages do with it. An engine is a function
//
//     load(bundle, variant, {device, threads, report}) -> {generate, close}
//     generate(prompt, {count, temperature, onText, stopped}) -> {ids, promptTokens, times}
//
// where `times` are those of the new tokens, in milliseconds, the first of them the start.

import { openBundle } from './bundle.js';
import { checkDevice } from './device.js';

const at = (id) => document.getElementById(id);

function show(state, words) {
    at('status').textContent = words;
    at('status').dataset.state = state;
}

// One message for everything that can go wrong: an Error's own words, and no trace.
async function attempt(work) {
    const buttons = [at('load'), at('generate')];
    const before = buttons.map((button) => button.disabled);
    for (const button of buttons) button.disabled = true;
    try {
        await work();
    } catch (reason) {
        console.error(reason);
        show('failed', reason instanceof Error ? reason.message : String(reason));
    } finally {
        buttons.forEach((button, i) => (button.disabled = before[i]));
    }
}

function figures({ ids, promptTokens, times }) {
    const first = times[1] - times[0];
    const rest = times.at(-1) - times[1];
    const rate = ids.length > 1 ? (1000 * (ids.length - 1)) / rest : null;
    const pace = rate === null ? '' : `, then ${rate.toFixed(1)} tokens/s`;
    at('figures').dataset.rate = rate ?? '';
    at('figures').dataset.first = first;
    at('figures').textContent =
        `${promptTokens} prompt tokens, the first new one after ${first.toFixed(0)} ms${pace}`;
}

export function start(load) {
    let model = null;
    let bundle = null;
    let stopping = false;
    let begun = null;

    async function readBundle() {
        bundle = null;
        at('variant').replaceChildren();
        show('working', 'Reading the manifest ...');
        const opened = await openBundle(new URL(at('bundle').value, document.baseURI));
        for (const [name, { bytes }] of Object.entries(opened.variants)) {
            at('variant').add(new Option(`${name} (${(bytes / 1e6).toFixed(1)} MB)`, name));
        }
        bundle = opened;
        show('chosen', 'Choose a variant and load it.');
    }

    async function loadModel() {
        if (bundle === null) throw new Error('no bundle has been read: check its address');
        if (!(at('variant').value in bundle.variants)) throw new Error('choose a variant of the bundle');
        const device = at('device').value;
        const threads = Number(at('threads').value);
        at('generate').disabled = true;
        await checkDevice(device, threads);
        const setup = `${device}, ${threads}`;
        // onnxruntime-web reads these when its WASM starts, and would pass over a change.
        if (begun !== null && begun !== setup) {
            throw new Error('reload the page to change the device or the threads');
        }
        begun = setup;
        await model?.close();
        model = null;
        const report = (words) => show('working', words);
        const began = performance.now();
        model = await load(bundle, at('variant').value, { device, threads, report });
        const seconds = ((performance.now() - began) / 1000).toFixed(1);
        at('status').dataset.seconds = seconds;
        const where = device === 'webgpu' ? 'WebGPU' : `WASM, ${threads} threads`;
        show('ready', `${at('variant').value} is loaded on ${where}, in ${seconds} s.`);
    }

    async function write() {
        stopping = false;
        at('stop').disabled = false;
        at('text').textContent = at('prompt').value;
        at('figures').textContent = '';
        show('working', 'Writing ...');
        try {
            const made = await model.generate(at('prompt').value, {
                count: Number(at('count').value),
                temperature: Number(at('temperature').value),
                onText: (piece) => at('text').append(piece),
                stopped: () => stopping,
            });
            at('text').dataset.ids = JSON.stringify(made.ids);
            if (made.ids.length) figures(made);
            show('written', stopping ? 'Stopped.' : 'Done.');
        } finally {
            at('stop').disabled = true;
        }
    }

    at('threads').value = navigator.hardwareConcurrency;
    at('bundle').addEventListener('change', () => attempt(readBundle));
    at('stop').addEventListener('click', () => (stopping = true));
    at('model').addEventListener('submit', async (event) => {
        event.preventDefault();
        await attempt(loadModel);
        at('generate').disabled = model === null;
    });
    at('request').addEventListener('submit', (event) => {
        event.preventDefault();
        attempt(write);
    });
    attempt(readBundle);
}
