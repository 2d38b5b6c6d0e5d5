"""How much arithmetic a token costs, and how much a card could do at best."""

from __future__ import annotations

from ...config import GPT2Config
from ...parameters import count_parameters

# Dense bf16 tensor-core FLOP/s, summed in fp32, by the start of the name that CUDA gives. A name
# with more words comes first. NVIDIA's data sheets, which print twice as much where they count
# structured sparsity: H200, H100, A100, A30, A40, A10, L40S, L40, L4, and the GB202 (5090), AD102
# (4090, 4080, RTX 6000 Ada) and GA102 (3090, A6000) architecture whitepapers. V100 and T4 have no
# bf16; theirs is fp16.
_PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 154.8e12,
    "GeForce RTX 5090": 209.5e12,
    "GeForce RTX 4090": 165.2e12,
    "GeForce RTX 4080": 97.5e12,
    "GeForce RTX 3090": 71e12,
    "V100-PCIE": 112e12,
    "V100": 125e12,
    "T4": 65e12,
}


def flops_per_token(config: GPT2Config, sequence_length: int) -> float:
    """Operations that training takes a token, forward and backward.

    6 N + 12 L E S (Chowdhery et al. 2022, "PaLM", appendix B). N counts the weights that a token is
    multiplied with: the layers and the output head, which a tied token embedding is; a token
    embedding that is only looked up and the positions do no arithmetic. The second term is
    attention's, over all S positions: that half of them are masked is the kernel's gain.

    >>> from gpt2edge import preset
    >>> f"{flops_per_token(preset('gpt2'), 1024):.3e}"
    '8.552e+08'
    """
    counts = count_parameters(config)
    head = config.vocab_size * config.n_embd
    multiplied = counts.attention + counts.mlp + counts.norms + head
    return 6.0 * multiplied + 12.0 * config.n_layer * config.n_embd * sequence_length


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a card, by the name that `torch.cuda.get_device_name` gives.

    None for a processor and for a card that is not in the table. It is the same whatever the
    training's precision, so that shares of it can be compared.

    >>> peak_flops("NVIDIA H200")
    989000000000000.0
    """
    words = device_name.removeprefix("NVIDIA ").removeprefix("Tesla ")
    for start, peak in _PEAKS.items():
        rest = words.removeprefix(start)
        if rest != words and not rest[:1].isalnum():
            # "Ti", "SUPER" and "Laptop GPU" are other chips, and MIG is a slice of one.
            another = (rest and start.startswith("GeForce")) or "MIG" in rest
            return None if another else peak
    return None
