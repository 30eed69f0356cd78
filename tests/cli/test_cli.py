"""The commands: output, exit codes, errors in one line and never a traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_support import installed

import toolkit
from toolkit.cli import COMMANDS, cli, main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``main`` in this process; returns exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sentence-serving", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def one_line(err: str) -> str:
    """The last line, which is the error; nothing before it may be a traceback."""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from toolkit.cli import cli;"
        "result = CliRunner().invoke(cli, ['--help']); print(result.output);"
        "print([m for m in ('tensorflow', 'torch', 'transformers', 'grpc', 'rich') if m in sys.modules])"
    )
    root = str(Path(toolkit.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.strip().endswith("[]")
    assert "Exit codes" in done.stdout


def test_the_package_is_the_installed_one_where_the_suite_says_so() -> None:
    if not os.environ.get("EXPECT_INSTALLED"):
        pytest.skip("only make test installs the wheel")
    assert "site-packages" in toolkit.__file__


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: cli {name}" in result.output


def test_version_and_unknown_commands() -> None:
    assert toolkit.__version__ in installed("--version").stdout
    unknown = installed("convert")
    assert unknown.returncode == 2
    assert "No such command 'convert'" in unknown.stderr


def test_export_prints_the_figures_and_the_path(run: Run, tiny_source: Path, tmp_path: Path) -> None:
    arguments = ("export", tiny_source, tmp_path, "--name", "tiny", "--version", "7", "--tokenizer-sample", "0.01")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "identical" in out
    assert "equal: max abs difference" in out
    assert out.strip().endswith(f"wrote {tmp_path / 'tiny' / '7'}")
    assert (tmp_path / "tiny" / "7" / "saved_model.pb").is_file()

    code, _, err = run(*arguments)
    assert code == 4
    assert one_line(err).startswith("error: ")
    assert "exists already" in one_line(err)


def test_export_takes_a_tokenizer_engine_only_with_its_proof(run: Run, tiny_source: Path, tmp_path: Path) -> None:
    arguments = ("export", tiny_source, tmp_path, "--name", "tiny", "--tokenizer-engine")
    code, _, err = run(*arguments, "BertTokenizer", "--no-check")
    assert code == 2
    assert "tokenizer engine 'BertTokenizer' is only taken where it is proved equal" in one_line(err)
    code, _, err = run(*arguments, "sentencepiece")
    assert code == 2
    assert "'compiled', 'BertTokenizer', 'FastBertTokenizer'" in one_line(err)
    assert not list(tmp_path.iterdir())


def test_export_without_check_is_loud_and_machine_readable(run: Run, tiny_source: Path, tmp_path: Path) -> None:
    code, out, err = run("export", tiny_source, tmp_path, "--name", "tiny", "--no-check", "--json")
    assert code == 0
    assert json.loads(out) == {"path": str(tmp_path / "tiny" / "1"), "name": "tiny", "version": 1, "check": None}
    assert "--no-check" in err
    assert "nothing proves" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["export", "no/such/folder/at-all", "models", "--name", "m"], 3, "no such folder"),
        (["export", ".", "models", "--name", "m"], 3, "modules.json"),
        (["export", ".", "models", "--name", "a/b"], 2, "model name"),
        (["export", ".", "models", "--name", "m", "--version", "0"], 2, "version 0"),
        (["export", ".", "models"], 2, "--name"),
        (["check", "nowhere", "."], 4, "version directory"),
        (["inspect", "nowhere"], 4, "saved_model.pb"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert words in one_line(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_check_exits_0_for_equal_and_1_for_different(
    run: Run, tiny_export: Path, tiny_source: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("hello world\n\nÜnïcödé 🚀\n", encoding="utf-8")
    code, out, _ = run("check", tiny_export, tiny_source, "--texts", texts)
    assert code == 0
    assert "equal" in out

    other = tmp_path / "other"
    shutil.copytree(tiny_source, other)
    pooling = other / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"mean"', '"max"'))
    code, out, err = run("check", tiny_export, other, "--texts", texts, "--json")
    assert code == 1
    assert "first at 1_pooling" in one_line(err)
    report = json.loads(out)
    assert report["passed"] is False
    assert report["divergence"]["stage"] == "1_pooling"
    assert report["token_ids_equal"] is True


def test_inspect_tells_signatures_provenance_and_servers(run: Run, tiny_export: Path) -> None:
    code, out, _ = run("inspect", tiny_export)
    assert code == 0
    for words in ("serving_default", "embedding float32", "TF Serving", "2.17 and later", "sha256:", "passed"):
        assert words in out
    code, out, _ = run("inspect", tiny_export, "--json")
    value = json.loads(out)
    assert value["releases"]["since"] == "2.17"
    assert value["guarded"] is True
    assert {item["name"] for item in value["signatures"]} >= {"serving_default", "embed_tokens"}
    assert value["provenance"]["check"]["passed"] is True


def test_an_encoder_alone_is_exported_with_its_settings_said_and_checked(
    run: Run, tiny_bert: Path, tmp_path: Path
) -> None:
    from transformers import BertModel

    source = Path(shutil.copytree(tiny_bert, tmp_path / "bert"))
    BertModel.from_pretrained(source).bfloat16().save_pretrained(source)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False  # transformers sets its own
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    arguments = ("export", source, tmp_path, "--name", "tiny", "--tokenizer-sample", "0.01", "--no-batching")
    code, out, err = run(*arguments, "--pooling", "cls", "--truncate-dim", 8, "--max-seq-length", 20)
    assert code == 0, err
    for words in ("at most 20 tokens", "pooling     cls", "float32 [8]", "equal: max abs difference"):
        assert words in out
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert [len(notes), "has no modules.json; served with cls pooling" in notes[0]] == [3, True]
    assert "the weights are bfloat16; equal means equal to those weights computed in float32" in notes[1]
    assert "5e-3" in notes[1]
    assert "tokenizer.json alone gives other token ids for" in notes[2]

    code, out, err = run("check", tmp_path / "tiny" / "1", source)
    assert (code, "equal: max abs" in out, err.count("note: ")) == (0, True, 2)
    code, out, _ = run("inspect", tmp_path / "tiny" / "1")
    words = " ".join(out.split())
    assert "settings truncate_dim 8, max_seq_length 20, pooling cls" in words
    assert "served with cls pooling" in words
    assert "tokenizer.json alone gives other token ids" in words
    code, _, err = run("inspect", source, "--tokenizer")
    assert (code, "note: tokenizer.json alone gives other token ids" in err) == (0, True)


@pytest.mark.parametrize(
    ("option", "value", "code", "words"),
    [
        ("--truncate-dim", "0", 2, "truncate_dim is 0"),
        ("--truncate-dim", "999", 2, "truncate_dim is 999, but the model's vectors have 24 numbers"),
        ("--max-seq-length", "999", 3, "max_seq_length is 999"),
        ("--prompt-name", "query2", 2, "prompt_name is 'query2'; the model has: query, document"),
        ("--pooling", "cls", 2, "pooling is for folders without modules.json"),
        ("--pooling", "median", 2, "'median' is not one of 'cls', 'max', 'mean'"),
    ],
)
def test_settings_that_do_not_go_with_the_source_are_refused(
    run: Run, tiny_source: Path, tmp_path: Path, option: str, value: str, code: int, words: str
) -> None:
    got, _, err = run("export", tiny_source, tmp_path, "--name", "tiny", option, value)
    assert (got, words in one_line(err)) == (code, True), err
    assert list(tmp_path.iterdir()) == []


def test_inspect_says_to_export_again_what_does_not_refuse_wrong_shapes(
    run: Run, tiny_export: Path, tmp_path: Path
) -> None:
    assert re.search("wrong shapes +refused", run("inspect", tiny_export)[1])
    old = shutil.copytree(tiny_export, tmp_path / "1")
    graph = (old / "saved_model.pb").read_bytes()
    # Exports had no such op before.
    (old / "saved_model.pb").write_bytes(graph.replace(b"input_guard", b"another_one"))
    assert re.search(r"wrong shapes +NOT refused.*again", run("inspect", old)[1], re.DOTALL)


def test_inspect_names_a_damaged_graph(run: Run, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    code, _, err = run("inspect", tmp_path)
    assert code == 4
    assert "saved_model.pb" in one_line(err)


def test_a_missing_extra_is_named(run: Run, tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "tensorflow" or name.startswith("tensorflow.")]:
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run("inspect", tiny_export)
    assert code == 6
    assert "pip install 'sentence-serving[convert]'" in one_line(err)


def test_inspect_prints_the_steps_of_a_tokenizer(run: Run, tiny_export: Path, tmp_path: Path) -> None:
    code, out, _ = run("inspect", tiny_export, "--tokenizer")
    assert code == 0
    lines = out.strip().splitlines()
    assert lines[0].startswith("1. find in the text: '[PAD]'")
    assert "add special tokens: [CLS] … [SEP]" in lines[-1]
    from support import wordpiece_tokenizer

    tokenizer = tmp_path / "tokenizer.json"
    wordpiece_tokenizer().save(str(tokenizer))
    code, out, _ = run("inspect", tmp_path, "--tokenizer", "--text", "Hello [SEP]", "--json")
    assert code == 0
    steps = json.loads(out)
    assert steps[0]["result"] != "Hello [SEP]"
    assert [token for _, token in steps[-1]["result"]][-2:] == ["[SEP]", "[SEP]"]
    code, out, _ = run("inspect", tokenizer, "--tokenizer", "--text", "Hello")
    assert (code, out.count("[CLS]")) == (0, 3)
    code, _, err = run("inspect", tiny_export, "--tokenizer", "--text", "a")
    assert (code, "needs the checkpoint" in one_line(err)) == (2, True)
    code, _, err = run("inspect", tiny_export, "--text", "a")
    assert (code, "--text needs --tokenizer" in one_line(err)) == (2, True)


@pytest.mark.long
def test_export_in_another_precision_is_held_to_a_cosine_and_inspect_says_so(
    run: Run, tiny_source: Path, tmp_path: Path
) -> None:
    options = ("--precision", "bfloat16", "--min-cosine", "0.99", "--tokenizer-sample", "0.001")
    code, out, err = run("export", tiny_source, tmp_path, "--name", "m", *options)
    assert code == 0, err
    assert "close enough: max abs difference" in out
    assert "of the 10 nearest texts" in out
    code, out, _ = run("inspect", tmp_path / "m" / "1")
    assert code == 0
    words = " ".join(out.split())
    assert "bfloat16: 8 products in bfloat16; smallest cosine allowed 0.99" in words
    assert "quality cosine with the original: smallest 0.99" in words


def test_export_names_precision_options_that_do_not_go_together(run: Run, tiny_source: Path, tmp_path: Path) -> None:
    target = (tiny_source, tmp_path / "models", "--name", "m")
    code, _, err = run("export", *target, "--calibration", tmp_path / "texts.txt")
    assert (code, one_line(err)) == (
        2,
        "error: calibration: is for int8, of products or of vectors; float32 needs none",
    )
    code, _, err = run("export", *target, "--precision", "int8", "--calibration", tmp_path / "texts.txt")
    assert code == 2
    assert f"calibration file {tmp_path / 'texts.txt'}: cannot be read: No such file" in one_line(err)
    code, _, err = run("export", *target, "--precision", "int4")
    assert code == 2
    assert "'float32', 'bfloat16', 'int8'" in err
    assert not (tmp_path / "models").exists()
