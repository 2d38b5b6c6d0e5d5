// A gpt2edge bundle over HTTP. Every file is compared with what the manifest says of it.

const FORMAT = 'gpt2edge-bundle';
const FORMAT_VERSION = 1;

async function fetched(url, what, options = {}) {
    let answer;
    try {
        answer = await fetch(url, options);
    } catch {
        throw new Error(`${what} cannot be reached at ${url}`);
    }
    if (answer.status === 404) {
        throw new Error(`${what} is missing: the server has no ${url}`);
    }
    if (!answer.ok) throw new Error(`${what}: the server answers ${answer.status} for ${url}`);
    return answer;
}

async function sha256(bytes) {
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export async function openBundle(address) {
    const url = address.href.endsWith('/') ? address.href : `${address.href}/`;
    const text = await (await fetched(`${url}manifest.json`, "the bundle's manifest.json")).text();
    let manifest;
    try {
        manifest = JSON.parse(text);
    } catch {
        throw new Error(`${url}manifest.json is no JSON`);
    }
    if (manifest?.format !== FORMAT) throw new Error(`${url} is no gpt2edge bundle`);
    if (!(manifest.format_version <= FORMAT_VERSION)) {
        throw new Error(
            `the bundle has format version ${manifest.format_version}, and this page reads up to ` +
                `${FORMAT_VERSION}: use a newer page`,
        );
    }
    return new Bundle(url, manifest);
}

class Bundle {
    constructor(url, manifest) {
        this.url = url;
        this.files = manifest.files;
        this.variants = {};
        for (const [name, variant] of Object.entries(manifest.variants)) {
            const bytes = variant.files.reduce((sum, file) => sum + this.files[file].bytes, 0);
            this.variants[name] = { ...variant, bytes };
        }
    }

    // The bytes of one file, as a Uint8Array. report(bytes so far) is called as they come.
    async read(name, report = () => {}) {
        const wanted = this.files[name];
        if (wanted === undefined) throw new Error(`the bundle's manifest lists no ${name}`);
        const answer = await fetched(this.url + name, `${name} of the bundle`);
        const bytes = new Uint8Array(wanted.bytes);
        const reader = answer.body.getReader();
        let got = 0;
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
            if (got + part.value.length <= bytes.length) bytes.set(part.value, got);
            got += part.value.length;
            report(got);
        }
        if (got !== wanted.bytes) {
            throw new Error(`${name} has ${got} bytes, and ${wanted.bytes} in the manifest`);
        }
        // Browsers have no crypto.subtle on a page that came over plain http.
        if (crypto.subtle && (await sha256(bytes)) !== wanted.sha256) {
            throw new Error(`${name} is damaged: its sha256 is not the manifest's`);
        }
        return bytes;
    }

    // For what another library reads by itself: that every file is there, and not its bytes.
    async checkThere(names) {
        for (const name of names) {
            await fetched(this.url + name, `${name} of the bundle`, { method: 'HEAD' });
        }
    }

    async readText(name) {
        return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(await this.read(name));
    }

    async readJson(name) {
        return JSON.parse(await this.readText(name));
    }
}
