"""What importing the packages costs, and what transformers knows of them afterwards."""

import json
import subprocess
import sys

import pytest

import flamingo

HEAVY = ["timm", "matplotlib", "sklearn", "torchvision", "scipy", "accelerate", "torch._dynamo"]
REPORT = f"""
import json, sys
import flamingo, flare
loaded = [name for name in {HEAVY} if name in sys.modules]
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.processing_auto import processor_class_from_name
named = [processor_class_from_name(f"{{name}}Processor").load() for name in ("Flamingo", "Flare")]
same = named == [flamingo.FlamingoProcessor, flare.FlareProcessor]
models = AutoModelForImageTextToText._model_mapping
known = [models[flamingo.FlamingoConfig].load() is flamingo.FlamingoForConditionalGeneration]
known += [models[flare.FlareConfig].load() is flare.FlareForConditionalGeneration]
print(json.dumps({{"loaded": loaded, "same": same, "known": known}}))
"""


@pytest.mark.slow
def test_importing_the_packages_loads_nothing_heavy_and_makes_them_known_to_transformers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPORT], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"loaded": [], "same": True, "known": [True, True]}


def test_a_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'flamingo' has no attribute 'Flamigo'"):
        flamingo.Flamigo  # noqa: B018 - the access is the point
