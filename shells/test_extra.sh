#!/usr/bin/env bash
# Runs the tests that one extra of pyproject.toml is for, in an environment of its own (build/extras/EXTRA), since some
# extras want other versions of what others bring. Tells of every test whether it ran; a package of the extra that cannot
# be imported is an error, not a reason to leave tests out. `--list` prints extras, packages and tests.
# PYTHON=/path/to/python chooses the interpreter; --dry-run prints the commands only; further arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# extra (others that its tests need with a comma) | what has to be there | tests
table="
cvat | cvat_sdk.auto_annotation cvat_cli | tests/unit/plugins/test_cvat.py
datumaro | datumaro | tests/unit/exports/test_export_tools.py
deepspeed | deepspeed | tests/unit/training/test_train_sharded.py
edgetam | timm | tests/unit/modeling/test_small_presets.py tests/unit/modeling/test_outline.py
fiftyone | fiftyone | tests/unit/plugins/test_fiftyone.py tests/unit/exports
formats | labelme cvat_sdk label_studio_sdk | tests/unit/exports tests/unit/plugins/test_label_studio.py
lmms-eval | lmms_eval | tests/unit/plugins/test_lmms_eval.py
mcp,serve | gradio mcp | tests/unit/serving/test_page.py
meteor | nltk | tests/unit/evaluation/test_metric_grounded.py
onnx | onnx onnxruntime onnxscript | tests/unit/modeling/test_graphs.py
openvino,onnx | openvino onnxruntime onnxscript | tests/unit/modeling/test_graphs.py
page,serve | gradio | tests/unit/serving/test_page.py
quantize | bitsandbytes | tests/unit/modeling/test_quantized.py tests/unit/inference/test_quantize.py tests/unit/training/test_base_dtype.py
ray,serve | ray | tests/reliability/test_many_machines.py tests/reliability/test_many_replicas.py tests/unit/inference/test_shards.py
supervision | supervision | tests/unit/exports tests/packaging/test_doc_examples.py
vlm | torchvision num2words | tests/unit/modeling/test_cores.py tests/unit/modeling/test_native_video.py tests/unit/modeling/test_native_presets.py tests/unit/training/test_native_core.py tests/unit/training/test_lora_native.py tests/unit/training/test_native_sharded.py
vlmeval | vlmeval | tests/unit/plugins/test_vlmeval.py
"

usage="usage: shells/test_extra.sh EXTRA|--list [--dry-run] [arguments of pytest]"
extra="${1:-}"
case "$extra" in
  "" | -h | --help) echo "$usage" && exit 0 ;;
  --list) echo "$table" | sed '/^$/d' && exit 0 ;;
esac
shift
dry_run=
for argument in "$@"; do
  shift
  if [ "$argument" = --dry-run ]; then dry_run=1; else set -- "$@" "$argument"; fi
done

row="$(echo "$table" | grep -E "^$extra(,[a-z]+)* \|" || true)"
if [ -z "$row" ]; then
  known="$(echo "$table" | sed '/^$/d; s/[ ,].*//' | paste -sd ' ')"
  echo "error: unknown extra '$extra'; known: $known" >&2
  exit 2
fi
IFS='|' read -r extras packages tests <<< "$row"
extras="$(echo "$extras" | tr -d ' ')"

run() {
  echo "+ $*"
  if [ -z "$dry_run" ]; then "$@"; fi
}

venv="build/extras/$extra"
torch="$(grep -E '^torch==' requirements.txt)"
run "${PYTHON:-python3}" -m venv --clear "$venv"
run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$torch" --editable ".[dev,video,$extras]"
for package in $packages; do
  run "$venv/bin/python" -c "import importlib; importlib.import_module('$package')"
done
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# shellcheck disable=SC2086 # several paths
run "$venv/bin/python" -m pytest -v -rs -m "exhaustive or not exhaustive" $tests "$@"
