"""The text that `gpt2edge pack --for mobile` puts beside the graphs: MOBILE.md."""

from __future__ import annotations

from collections.abc import Sequence

from .bundle import GraphKind, Variant

_REPOSITORY = "https://github.com/microsoft/onnxruntime"


def mobile_readme(variants: Sequence[Variant], version: str, config: str) -> str:
    """What the folder holds and how to build the smallest runtime for it.

    version: of the onnxruntime that wrote the graphs; config: the operators' file in the folder.
    """
    rows = "\n".join(_row(variant) for variant in variants)
    return f"""# {", ".join(variant.name for variant in variants)} for a phone

Graphs in ONNX Runtime's ORT format, written by onnxruntime {version}. Every build of that version
or a newer one opens them: the full packages (`onnxruntime-android`, `onnxruntime-objc`), and
minimal builds, which open nothing else. `gpt2edge.load(FOLDER)` opens them on a computer.

| variant | file | inputs |
| --- | --- | --- |
{rows}

`tokenizer.json` is the tokenizer, `config.json` has the sizes and the end of text, `manifest.json`
the sha256 of every file.

## A runtime with these operators only

Not run here: it needs the Android SDK and NDK, or Xcode.

```
git clone --depth 1 --branch v{version} --recursive {_REPOSITORY}
onnxruntime/build.sh --config MinSizeRel --build_dir "$PWD/build" --parallel --skip_tests \\
    --minimal_build extended --include_ops_by_config "$PWD/{config}" \\
    --enable_reduced_operator_type_support \\
    --android --android_sdk_path "$ANDROID_HOME" --android_ndk_path "$ANDROID_NDK_HOME" \\
    --android_abi arm64-v8a --android_api 24 --build_java --use_xnnpack
```

For iOS the last two lines are `--use_xcode --ios --apple_sysroot iphoneos --osx_arch arm64
--apple_deploy_target 15.1 --use_coreml`. `required_operators.config` names the operators without
their element types, for a build that shall open other models of the kind too; then leave
`--enable_reduced_operator_type_support` out. Operators of `com.microsoft` are among them, so
`--disable_contrib_ops` is not for this build. `extended` is what CoreML and XNNPACK need; without
them a plain `--minimal_build` is smaller.

## Settings

* **CPU**: as many intra-op threads as the phone has fast cores: threads wait for each other at
  every operator, so one slow core holds up the fast ones.
* **XNNPACK** has threads of its own. Give it those (`intra_op_num_threads`), and ONNX Runtime 1,
  with `session.intra_op.allow_spinning` = `0`; else the two compete. It takes the float products
  of `gpt2edge quantize BUNDLE --profile xnnpack`, and none of int8 and int4 variants.
* **CoreML and QNN** take graphs of fixed shapes: `gpt2edge quantize BUNDLE --profile coreml|qnn`
  makes a pair, for prompts and for steps. Here each file holds the weights; as ONNX, packed without
  `--for mobile` for a full runtime, the two share them.
* Graphs of fixed shapes carry fusions for the nodes that no provider took. ONNX Runtime
  applies them with `session.enable_saved_runtime_optimizations` = `1`, for files that you trust.
"""


def _row(variant: Variant) -> str:
    if variant.static is not None:
        shape = variant.static
        inputs = (
            f"batch {shape.batch}, {shape.sequence} new tokens after a cache of {shape.past} slots"
        )
    else:
        inputs = "any number of tokens; the cache may be empty at first"
    fused = "" if variant.graph is GraphKind.PORTABLE else ", a cache written in place"
    return f"| {variant.name} | `{variant.model}` | {inputs}{fused} |"
