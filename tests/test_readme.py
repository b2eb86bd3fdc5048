"""The README's examples run in the precision that a reader has by default; its links lead on."""

import re
from pathlib import Path

import jax
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"^```(python|pycon)\n(.*?)^```", README.read_text(), re.S | re.M)


# Those that compile more than one large program.
LONG = {4, 5, 6, 7, 8, 11, 12}


@pytest.mark.parametrize(
    "number",
    [pytest.param(i, marks=pytest.mark.slow) if i in LONG else i for i in range(len(BLOCKS))],
)
def test_an_example_runs_alone(number, tmp_path, float32):
    language, code = BLOCKS[number]
    page = tmp_path / "example.md"
    page.write_text(f"```python\n{code}```\n")
    document = Sybil([PythonCodeBlockParser()]).parse(page)
    examples = list(document.examples())
    assert examples, language
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for example in examples:
            example.evaluate()


def test_every_example_is_found():
    assert [language for language, _ in BLOCKS].count("pycon") == 1
    assert len(BLOCKS) == len(re.findall(r"^```py", README.read_text(), re.M)) >= 10


def test_the_power_law_trains_the_network_in_ten_lines():
    (code,) = [code for _, code in BLOCKS if "PowerLaw" in code]
    lines = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(lines) <= 10


def test_the_example_by_hand_is_at_most_twelve_lines():
    (code,) = [code for _, code in BLOCKS if "diffeqsolve" in code]
    lines = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(lines) <= 12


def test_the_two_commands_stand_on_lines_of_their_own():
    text = README.read_text()
    for name in ("main", "tests"):
        assert re.search(rf"<!-- ci: {name} -->\n```console\n\$ [^\n]+\n```", text)


def test_links_and_pictures_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (ROOT / target).exists(), target
