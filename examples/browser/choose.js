// The next token, from the logits of the last position.

export function likeliest(logits) {
    let best = 0;
    for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
    return best;
}

// One drawn from softmax(logits / temperature).
export function drawn(logits, temperature) {
    const top = logits[likeliest(logits)];
    const weights = Float64Array.from(logits, (logit) => Math.exp((logit - top) / temperature));
    let left = Math.random() * weights.reduce((a, b) => a + b);
    let last = 0;
    for (let i = 0; i < weights.length; i++) {
        if (!weights[i]) continue;
        last = i;
        left -= weights[i];
        if (left < 0) break;
    }
    return last;
}
