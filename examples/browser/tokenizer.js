// GPT-2's byte-level BPE (Radford et al. 2019, section 2.2; Sennrich et al. 2016).

// \s of JavaScript is another set than that of the tokenizers in use, which is Unicode's.
const WORD =
    /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

// The printable character that spells each byte: itself, or one of those from U+0100 on.
function byteSpelling() {
    const plain = (byte) =>
        (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad);
    let next = 0x100;
    return Array.from({ length: 256 }, (_, byte) =>
        String.fromCharCode(plain(byte) ? byte : next++),
    );
}

const SPELLING = byteSpelling();
const BYTES = new Map(SPELLING.map((character, byte) => [character, byte]));

export class Tokenizer {
    // ids: {token: id}, as in vocab.json. merges: the text of merges.txt.
    constructor(ids, merges) {
        const lines = merges.split('\n').filter((line, i) => line && !(i === 0 && line.startsWith('#version')));
        this.ids = new Map(Object.entries(ids));
        this.ranks = new Map(lines.map((line, rank) => [line, rank]));
        this.kept = new Map();
        const made = new Set(lines.map((line) => line.replace(' ', '')));
        const spelled = (token) =>
            made.has(token) || token.length === 1
                ? Uint8Array.from(token, (character) => BYTES.get(character))
                : new TextEncoder().encode(token);
        this.bytes = new Map(Object.entries(ids).map(([token, id]) => [id, spelled(token)]));
    }

    static async of(bundle) {
        return new Tokenizer(await bundle.readJson('vocab.json'), await bundle.readText('merges.txt'));
    }

    // The ids of `text`; special tokens in it, as <|endoftext|>, are plain text.
    encode(text) {
        if (!text.isWellFormed()) throw new Error('the text has half of a character in it (a lone surrogate)');
        const utf8 = new TextEncoder();
        return Array.from(text.matchAll(WORD), ([word]) =>
            this.#merged(Array.from(utf8.encode(word), (byte) => SPELLING[byte]).join('')),
        ).flat();
    }

    #merged(word) {
        if (this.kept.has(word)) return this.kept.get(word);
        const parts = [...word];
        for (;;) {
            let best = Infinity;
            let place = -1;
            for (let i = 0; i + 1 < parts.length; i++) {
                const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
                if (rank < best) [best, place] = [rank, i];
            }
            if (place < 0) break;
            parts.splice(place, 2, parts[place] + parts[place + 1]);
        }
        const ids = parts.map((part) => this.ids.get(part));
        this.kept.set(word, ids);
        return ids;
    }

    // A function from an id, or from nothing at the end, to the text that it completes: a
    // character may take several tokens. An id without a token says nothing.
    stream() {
        const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
        return (id) =>
            id === undefined
                ? decoder.decode()
                : decoder.decode(this.bytes.get(id) ?? new Uint8Array(), { stream: true });
    }
}
