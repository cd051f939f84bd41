"""Writes index.html, the page of an output folder: the command, the results and the files.

All links are relative, so the folder can be moved or sent. The page loads nothing from elsewhere.
"""

import html
import json
import pathlib
import shlex
import sys
import typing

from absl import flags

NAMES = "index.html", "attention.html"  # the files of this page
PICTURES = {
    "learning_curve.png": "Learning curve",
    "cross_attention.png": "What the last decoder block reads of the source",
    "mix.png": "What the head takes of each layer",
    "senses.png": "How near the vectors of a word are, sentence by sentence",
    "senses_map.png": "The vectors of one word in sentences",
}
FILES = {
    "saved_model": "the service: text in, answers out",
    "model.keras": "the model, for keras.models.load_model after import keras_xfmr",
    "elmo.keras": "the encoder, for keras.models.load_model after import keras_xfmr",
    "hub": "weights for from_pretrained",
    "tokenizer": "for keras_xfmr.text.load_tokenizer",
    "source_tokenizer": "for keras_xfmr.text.load_tokenizer",
    "target_tokenizer": "for keras_xfmr.text.load_tokenizer",
    "tensorboard": "logs, for tensorboard --logdir",
    "train.tsv": "what it was trained on",
    "held_out.tsv": "what it was measured on",
}
SHORT = 16  # characters of a cell, such as a label or a score
STYLE = """
:root { color-scheme: light dark; --edge: #8888; --panel: #8881; }
body { max-width: 1000px; margin: 0 auto; padding: 16px; line-height: 1.5; font-family:
  system-ui, "Noto Sans KR", "Noto Sans CJK KR", NanumGothic, "Malgun Gothic", sans-serif; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 28px; }
pre { padding: 10px; background: var(--panel); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--edge); text-align: left;
  vertical-align: top; }
td { overflow-wrap: anywhere; } td.short { overflow-wrap: break-word; }
img { display: block; max-width: 100%; background: white; }
iframe { display: block; box-sizing: border-box; width: 100%; height: 640px;
  border: 1px solid var(--edge); border-radius: 6px; }
"""


class Service(typing.NamedTuple):
    """A request of a SavedModel: the inputs by their names, and the signature."""

    inputs: dict
    signature: str = "serving_default"


def write(output, measures, columns=(), rows=(), service=None, then=""):
    """Writes index.html for the files of the output folder.

    Args:
        output: the folder.
        measures: name -> measured value.
        columns: headings of the samples, such as "text" and "label".
        rows: the samples, one text for each column.
        service: the `Service` request that tested saved_model/, or None.
        then: the next command to use the output.

    Returns:
        The path.
    """
    script = pathlib.Path(sys.argv[0]).stem
    here = {name for name in (*PICTURES, *FILES, *NAMES) if (output / name).exists()}
    parts = [
        f"<h1>{_text(script)}</h1>",
        _part("Command", f"<pre>{_text(_command(script))}</pre>"),
        _part("Measured", _table((), [(name, _short(one)) for name, one in measures.items()])),
        _part("Samples", _table(columns, rows)),
    ]
    parts += [
        _part(caption, f'<img src="{name}" alt="{_text(caption)}">')
        for name, caption in PICTURES.items()
        if name in here
    ]
    if "attention.html" in here:
        frame = '<iframe src="attention.html" title="Attention"></iframe>'
        parts.append(_part("Attention", f'<p><a href="attention.html">Whole page</a></p>{frame}'))
    served = _serve(output, script, service) if "saved_model" in here and service else ""
    parts.append(_part("Serve", f"<pre>{_text(served)}</pre>" if served else ""))
    parts.append(_part("Next", f"<pre>{_text(then)}</pre>" if then else ""))
    links = [
        f'<li><a href="{name}">{name}</a>: {_text(what)}</li>'
        for name, what in FILES.items()
        if name in here
    ]
    parts.append(_part("Files", f"<ul>{''.join(links)}</ul>" if links else ""))
    parts.append(_part("Flags", _table((), ((f"--{f.name}", f.value) for f in _flags()))))
    head = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{_text(script)}</title>\n<style>{STYLE}</style>\n'
    )
    path = output / "index.html"
    path.write_text(head + "\n".join(filter(None, parts)) + "\n", "utf8", "replace")
    print("\n\n".join(["\nWhat to do next:", f"open {path}", *filter(None, (served, then))]) + "\n")
    return path


def _short(measured):
    return f"{measured:.4g}" if isinstance(measured, float) else measured


def _text(value):
    return html.escape(str(value))


def _part(title, content):
    return f"<h2>{_text(title)}</h2>\n<div class=wide>{content}</div>" if content else ""


def _table(columns, rows):
    rows = ["".join(map(_cell, row)) for row in rows]
    if not rows:
        return ""
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}\n{body}\n</table>"


def _cell(value):
    """A cell of a table. On a narrow screen the words of a short one are not broken."""
    kind = " class=short" if len(str(value)) <= SHORT else ""
    return f"<td{kind}>{_text(value)}</td>"


def _flags():
    """The flags of the example, in the order of their names."""
    own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    return sorted(own, key=lambda flag: flag.name)


def _command(script):
    given = []
    for flag in _flags():
        if flag.value != flag.default:
            several = isinstance(flag, flags.MultiFlag)  # one for each value
            given += flag.serialize().split("\n") if several else [flag.serialize()]
    parts = [f"python examples/{script}.py", *map(shlex.quote, filter(None, given))]
    return " \\\n    ".join(parts)


def _serve(output, script, service):
    """The commands that start TensorFlow Serving in a container and send a request."""
    folder = shlex.quote(f"{(output / 'saved_model').resolve()}:/models/{script}")
    request = json.dumps(
        {"signature_name": service.signature, "inputs": service.inputs}, ensure_ascii=False
    )
    return (
        f"docker run --rm -p 8501:8501 -v {folder} -e MODEL_NAME={script} tensorflow/serving\n\n"
        f"curl http://localhost:8501/v1/models/{script}:predict \\\n    -d {shlex.quote(request)}"
    )
