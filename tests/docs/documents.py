"""The pages of the documentation, and the code in them."""

import pathlib
import re

from keras_xfmr import models, text

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Those with code. The others take in a file from elsewhere.
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in [*DOCS.glob("*.md"), *DOCS.glob("tasks/*.md")]
    if not path.read_text("utf8").startswith("```{include}")
)
# Their code needs files or devices that no test has.
NOT_RUN = {"from_torch.md", "scale.md"}
QUICK = ["tasks/add_a_model.md", "tasks/move.md", "tasks/subclass.md"]


def read(page):
    return (DOCS / page).read_text("utf8")


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.S | re.M)


def inline(page):
    """What stands between backticks in the prose and in the tables."""
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.S | re.M)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)


def write_bert(folder):
    """A folder such as the page about pretraining writes, of a model that is not trained."""
    words = "we win the match team plays well it rains again street is wet eat rice fans sing"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = text.BertTokenizer([*special, *words.split()])
    sizes = {"vocab_size": tokenizer.vocab_size, "max_length": 32, "num_layers": 1}
    models.Bert.from_preset("tiny", **sizes).save_pretrained(folder)
    tokenizer.save(folder)
