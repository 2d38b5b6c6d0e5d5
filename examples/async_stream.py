"""Several texts at once on an event loop, as a server makes them.

python examples/async_stream.py BUNDLE
"""

import asyncio
import sys

import gpt2edge


async def answer(model: gpt2edge.Model, prompt: str) -> str:
    text = ""
    async for piece in model.astream(prompt, max_new_tokens=20):
        text += piece  # a server would send it
    return text


async def main() -> None:
    model = gpt2edge.load(sys.argv[1])
    prompts = ["A name", "The lookup", "An object"]
    for text in await asyncio.gather(*(answer(model, prompt) for prompt in prompts)):
        print(text)


asyncio.run(main())
