"""The command that measures: its table, its one line of data, its sheet, two models beside each other."""

import json

import numpy as np
from PIL import Image

from ltx_jax.tools.evaluate import main


def test_truth_prints_a_table_with_chance_and_draws_a_sheet(tmp_path, capsys):
    assert main(["--suite=truth", "--prompts=6", f"--sheet={tmp_path / 'clips.png'}"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "100.0%" in lines["colour"] and "to" in lines["colour"] and lines["colour"].count("%") == 4
    assert np.asarray(Image.open(tmp_path / "clips.png")).shape[2] == 3


def test_json_is_one_line_of_all_figures(capsys):
    assert main(["--suite=ceiling", "--prompts=4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["prompts"] == 4 and report["frechet"] > report["frechet_floor"] > 0
    kept = report["reconstruction"]
    assert 20 < kept["psnr"] < 50 and kept["edge_px_truth"] < 1.6 and kept["mel_l1"] > 0 < kept["vocoder_stft"] < 3
    assert set(report["scores"]) == {
        "colour", "shape", "count", "size", "background", "inside", "prompt", "prompt_unseen", "sync_60ms",
    }  # fmt: skip


def test_two_models_are_compared(capsys):
    assert main(["--suite=truth", "--prompts=4", "--compare", "toy", "toy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["colour"]["first"] == found["colour"]["second"] == 1
    assert found["colour"]["difference"] == [0, 0, 0]


def test_what_does_not_exist_is_refused(capsys):
    for arguments in (["--suite=none"], ["--prompts=0"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
