"""07_metrics.py report: planted results in their rows, what differs is said, paired differences."""

import json
import math
from types import SimpleNamespace

import numpy as np
from conftest import call, refused
from planted_results import (
    HUNDRED,
    IMAGENET,
    LINEAR,
    OWN,
    WILDFIRE,
    cells,
    linear_differences,
    mirror,
    reported,
    rows_of,
    write_run,
)

from report.arms import Column, gate
from report.results import generation, read_runs
from report.tables import TABLES, dissertation_table, entries, fill, select, table6

REPORT = "07_metrics.py report"


def test_rows_of_the_dissertation(tmp_path, capsys):
    runs = tmp_path / "runs"
    inpaint = mirror("inpaint", mask="center")
    for seed, top1 in enumerate((60.0, 61.0, 62.0)):
        write_run(runs / f"base{seed}", top1, seed)
        write_run(runs / f"inpaint{seed}", top1 + 2, seed, mix=0.5, generated_by=inpaint)
    write_run(runs / "semi", 40.0, stage="05_semisup_eval", args={"percent": 1})
    write_run(runs / "real", 61.5, mix=0.5, generated_by=["real"])
    write_run(runs / "none", 61.0, mix=0.5, generated_by=mirror("inpaint", mask="none"))
    voc = {"top1": {"mean": 80.0}, "map": {"mean": 75.0}}
    write_run(runs / "voc", 0, stage="06_transfer voc07", args={}, results=voc)
    diffusion = mirror("diffusion", strength=[0.2])
    pair = HUNDRED | {"method": "dino", "pair": ["flip", "crop"], "mix": 0.5}
    write_run(runs / "d", 70.0, **pair, generated_by=diffusion)
    views = HUNDRED | {"method": "byol", "mix": 1.0, "views": 2, "batch_size": 512}
    write_run(runs / "o", 71.0, **views, generated_by=mirror("outpaint"))
    fire = WILDFIRE | {"mix": 0.75, "size": 128}
    random = mirror("inpaint", mask="random:0.25")
    write_run(runs / "m", 98.0, **fire, generated_by=random)
    write_run(runs / "long", 99.0, **fire, generated_by=random, epochs=1000)
    write_run(runs / "longbase", 98.5, **fire | {"mix": 0}, epochs=1000)
    scratch = {"percent": 100, "from_scratch": True, "epochs": 100, "size": 128, "seed": 0}
    supervised = {"stage": "05_semisup_eval", "args": scratch | {"architecture": "resnet50"}}
    write_run(runs / "s", 97.0, **fire, **supervised)
    call(REPORT, runs)
    text = capsys.readouterr().out
    assert text.startswith("### Your arms")
    assert text.strip() == (runs / "report.md").read_text().strip()
    assert "Table 3" not in text and "Table 2" not in text and "Table 6" not in text
    for table in ("Table 4", "Table 5", "Table 7", "Figure 30", "Figure 31", "Figure 33"):
        assert f"\n### {table}: " in text
    base = cells(runs, "Table 4", "Non-Generative 0 %")
    assert base == ["65.8", "61.00 ± 1.00 (3)", "42.9", "40.00"]  # top-5 has no result
    assert cells(runs, "Table 4", "In-Painting 50 %")[:2] == ["68.7", "63.00 ± 1.00 (3)"]
    assert cells(runs, "Table 4", "In-Painting 75 %")[:2] == ["68.5", ""]
    assert cells(runs, "Table 4", "Control: real image 50 %")[:2] == ["–", "61.50"]
    assert cells(runs, "Table 4", "Control: reconstruction 50 %")[:2] == ["–", "61.00"]
    assert "Control: real image 75 %" not in (runs / "report.md").read_text()
    assert cells(runs, "Table 5", "Hand-Crafted") == ["83.8", "80.00", "–", "75.00"]
    assert cells(runs, "Table 7", "Control: real image, crop")[:2] == ["–", "61.50"]
    assert cells(runs, "Figure 30", "Strength 0.2") == ["0.8 above strength 0, the best", "70.00"]
    assert cells(runs, "Figure 31", "BYOL, 2 views")[:2] == ["–", "71.00"]
    fire33 = {"Mask 0.25, gamma 0.75": ["98.37", "98.00"], "Supervised": ["98.68", "97.00"]}
    fire33["Mask 0.25, gamma 0.75, long training"] = ["99.22", "99.00"]
    fire33["No generated view (gamma 0), long training"] = ["–", "98.50"]
    for name, expected in fire33.items():
        assert cells(runs, "Figure 33", name) == expected
    assert "inpaint (mask none), control" in text and "real, control" in text
    for figure in (30, 31, 33):
        assert (runs / f"figure{figure}.png").stat().st_size > 5000
    assert (runs / "report.png").stat().st_size > 5000
    numbers = json.loads((runs / "report.json").read_text())
    cell = numbers["tables"]["table4"]["In-Painting 50 %"]["Linear top-1"]
    assert cell["dissertation"] == 68.7
    assert cell["here"] == [{"values by seed": {"0": 62.0, "1": 63.0, "2": 64.0}, "unlike": []}]


def test_everything_with_all(tmp_path, capsys):
    write_run(tmp_path / "base", 60.0)
    text = reported(capsys, tmp_path, "--all")
    for about in TABLES.values():
        assert about["title"] in text
    assert cells(tmp_path, "Table 3", "Control: real image + Crop")[:2] == ["–", ""]
    assert cells(tmp_path, "Table 2", "Gaussian (GenRep)")[::2] == ["48.73", "73.13"]


def test_the_folder_name_decides_nothing(tmp_path, capsys):
    runs = tmp_path / "satellite"
    own = OWN | {"size": 128}
    write_run(runs / "base", 57.0, **own)
    masked = mirror("inpaint", mask="random:0.5", steps=6)
    write_run(runs / "masked", 59.0, **own, mix=0.5, generated_by=masked)
    text = reported(capsys, runs)
    assert cells(runs, "Figure 33", "Mask 0.5, gamma 0.5") == ["–", "59.00 [2]"]
    assert "[2] other data: set, steps 6." in text
    assert cells(runs, "Figure 33", "No generated view (gamma 0)") == ["97.96", "57.00 [1]"]
    assert "Table 4" not in text and "Table 7" not in text


def test_a_cell_says_what_differs(tmp_path, capsys):
    part = dict(list(IMAGENET.items())[:50] + list(IMAGENET.items())[900:950])
    small = {"backbone": "resnet10", "epochs": 2, "size": 32, "batch_size": 12}
    args = LINEAR | {"cache_features": True}
    write_run(tmp_path / "a", 61.0, **small, classes=part, images=(900, 300), args=args)
    said = "100 of 1,000 classes, resnet10, 2 epochs, 32 px, batch size 12, cached features"
    assert f"[1] {said}." in reported(capsys, tmp_path)
    assert cells(tmp_path, "Table 4", "Non-Generative 0 %")[1] == "61.00 [1]"


def test_published_before_cached(tmp_path):
    """Cached features stand in only where there is nothing else, and other settings are told."""
    write_run(tmp_path / "a", 60.0, local_crops=0)
    write_run(tmp_path / "b", 70.0, local_crops=6)
    write_run(tmp_path / "c", 10.0, args=LINEAR | {"cache_features": True}, local_crops=0)
    rows = TABLES["table4"]["rows"]
    row = next(row for row in rows if row["name"].startswith("Non-Generative"))
    results = read_runs(tmp_path)
    assert len(select(results, row["arm"])) == 3
    groups = entries(results, row["arm"], "linear top1")
    assert sorted(group[0].values["top1"] for group in groups) == [60.0, 70.0]
    call(REPORT, tmp_path)
    assert cells(tmp_path, "Table 4", "Non-Generative 0 %")[1] == "60.00 [1] / 70.00 [2]"
    arms = rows_of(tmp_path, "Your arms")
    assert {row["other"] for row in arms} == {"local crops 0", "local crops 6"}
    assert {row["linear top-1, cached features"] for row in arms} == {"10.00", ""}


def test_paired_differences(tmp_path, capsys):
    """Only seeds that both arms have count; the interval is that of the t distribution."""
    masked = mirror("inpaint", mask="random:0.5")
    decoded = mirror("inpaint", mask="none")
    differences = {0: 1.0, 1: 2.5, 2: 3.0}
    for seed, difference in differences.items():
        level = 50 + 10 * seed
        write_run(tmp_path / f"base{seed}", level, seed, **OWN)
        more = {**OWN, "mix": 0.5}
        write_run(tmp_path / f"arm{seed}", level + difference, seed, **more, generated_by=masked)
        write_run(tmp_path / f"real{seed}", level + 1, seed, **more, generated_by=["real"])
    write_run(tmp_path / "decoded", 70.5, 2, **more, generated_by=decoded)
    write_run(tmp_path / "arm7", 99.0, 7, **more, generated_by=masked)
    write_run(tmp_path / "base8", 1.0, 8, **OWN, batch_size=400)
    call(REPORT, tmp_path)
    rows = {view: row for (view, _), row in linear_differences(tmp_path).items()}
    arm = rows["inpaint (mask random:0.5)"]
    values = np.array(list(differences.values()))
    half = 4.302653 * values.std(ddof=1) / math.sqrt(3)
    assert arm["minus baseline"] == f"{values.mean():+.2f} ± {half:.2f} (3)"
    assert arm["minus real"] == f"{values.mean() - 1:+.2f} ± {half:.2f} (3)"
    assert arm["minus reconstruction"] == "+2.50 (1)"
    assert rows["real, control"]["minus baseline"] == "+1.00 ± 0.00 (3)"
    assert rows["real, control"]["minus real"] == ""
    assert rows["inpaint (mask none), control"]["minus real"] == "-0.50 (1)"
    numbers = json.loads((tmp_path / "report.json").read_text())
    rows = [row for row in numbers["differences"] if row["measured"] == "linear top-1"]
    row = next(row for row in rows if row["generated view"].endswith("0.5)"))
    assert row["minus baseline"]["differences"] == [1.0, 2.5, 3.0]


def test_controls_that_decide(tmp_path, capsys):
    """Wrong labels, the oracle, the neighbour, equal time: each has its row and its difference."""
    half = {"mix": 0.5}

    def inpaint(**flags):
        return mirror("inpaint", mask="center", **flags)

    write_run(tmp_path / "base", 60.0)
    write_run(tmp_path / "longer", 61.5, epochs=125)
    write_run(tmp_path / "twice", 61.9, epochs=200)  # of no arm's time
    write_run(tmp_path / "arm", 64.0, **half, generated_by=inpaint(label=None))
    write_run(tmp_path / "random", 61.0, **half, generated_by=inpaint(label="random"))
    write_run(tmp_path / "one", 61.2, **half, generated_by=inpaint(label=0))
    write_run(tmp_path / "oracle", 70.0, **half, generated_by=mirror("same-class"))
    near = mirror("neighbour", backbone="runs/baseline-seed0")
    write_run(tmp_path / "near", 62.0, **half, generated_by=near)
    call(REPORT, tmp_path)
    expected = {
        "Non-Generative 0 %": "60.00",
        "In-Painting 50 %": "64.00",
        "Control: baseline of equal time (125 epochs)": "61.50",
        "Control: In-Painting 50 %, random label": "61.00",
        "Control: In-Painting 50 %, one label for all": "61.20",
        "Oracle: another image of the class 50 %": "70.00",
        "The most similar other image 50 %": "62.00",
    }
    for name, cell in expected.items():
        assert cells(tmp_path, "Table 4", name)[1] == cell, name
    rows = linear_differences(tmp_path)
    found = {about: list(row.values())[-3:] for about, row in rows.items()}
    equal = ["minus baseline", "minus baseline of equal time", "minus random label"]
    assert list(rows["none", "125"])[-3:] == equal
    assert found == {
        ("none", "125"): ["+1.50 (1)", "", ""],
        ("inpaint (mask center)", "100"): ["+4.00 (1)", "+2.50 (1)", "+3.00 (1)"],
        ("inpaint (mask center, label random), control", "100"): ["+1.00 (1)", "-0.50 (1)", ""],
        ("inpaint (mask center, label 0), control", "100"): ["+1.20 (1)", "-0.30 (1)", ""],
        ("same-class, oracle", "100"): ["+10.00 (1)", "+8.50 (1)", ""],
        ("neighbour", "100"): ["+2.00 (1)", "+0.50 (1)", ""],
    }


def test_table2(tmp_path, capsys):
    """Both views generated: those arms alone, whatever else was trained with the same mirrors."""
    aug = {"method": "simclr", "size": 128, "pair": ["crop", "flip", "jitter", "blur", "grayscale"]}
    both = aug | {"mix": 1.0, "both_generated": True}
    steered = [*mirror("noise"), *mirror("feature-noise", steer="gen/zoom/direction.pt")]
    write_run(tmp_path / "base", 50.0, **aug)
    write_run(tmp_path / "steered", 52.0, **both, generated_by=steered)
    gaussian = [*mirror("noise"), *mirror("feature-noise", feature_noise=0.01, invert_steps=0)]
    write_run(tmp_path / "gaussian", 51.0, **both, generated_by=gaussian)
    write_run(tmp_path / "one", 1.0, **both | {"both_generated": False}, generated_by=steered)
    write_run(tmp_path / "real", 49.0, **both, generated_by=["real"])
    call(REPORT, tmp_path)
    assert cells(tmp_path, "Table 2", "SimCLR, real images")[:2] == ["49.44", "50.00"]
    assert cells(tmp_path, "Table 2", "Gaussian (GenRep)")[:2] == ["48.73", "51.00"]
    assert cells(tmp_path, "Table 2", "Steering (GenRep)")[:2] == ["51.19", "52.00"]
    assert cells(tmp_path, "Table 2", "Control: real image in both views")[:2] == ["–", "49.00"]
    rows = [row for row in rows_of(tmp_path, "Paired") if row["measured"] == "linear top-1"]
    arm = next(row for row in rows if "steer" in row["generated view"] and "both" in row["views"])
    assert (arm["minus baseline"], arm["minus real"]) == ("+2.00 (1)", "+3.00 (1)")


def test_a_difference_says_what_else_differs(tmp_path, capsys):
    write_run(tmp_path / "base", 50.0, **OWN, batch_size=768)
    more = {**OWN, "mix": 1.0, "views": 2, "batch_size": 512}
    write_run(tmp_path / "arm", 52.0, **more, generated_by=mirror("outpaint"))
    assert "[1] batch size 512 / 768." in reported(capsys, tmp_path)
    [row, _] = rows_of(tmp_path, "Paired differences")  # linear and kNN
    assert row["minus baseline"] == "+2.00 (1) [1]"


def test_arms_are_compact(tmp_path, capsys):
    """Columns that are the same everywhere, or that follow from others, become a note."""
    beside = {"majority class": {"top1": {"mean": 12.5}}}
    write_run(tmp_path / "base", 50.0, **OWN, batch_size=768, baselines=beside)
    masked = mirror("inpaint", mask="random:0.5")
    write_run(tmp_path / "arm", 52.0, **OWN, mix=0.5, generated_by=masked, batch_size=512)
    for labels in (5, 20):
        args = {"cache_features": True, "labels_per_class": labels, "draws": 10, "seeds": [0]}
        few = {"top1": {"mean": 30.0 + labels}}
        more = {**OWN, "args": args, "baselines": beside, "batch_size": 768}
        write_run(tmp_path / f"few{labels}", 0, **more, results=few)
    tuned = {"stage": "05_semisup_eval", "args": {"percent": 1}}
    write_run(tmp_path / "one", 40.0, **OWN, batch_size=768, **tuned)
    birds = {"stage": "06_transfer birds2k", "args": {"dataset": "birds2k"}}
    write_run(tmp_path / "two", 30.0, **OWN, batch_size=768, **birds, results={"top1": {"mean": 9}})
    text = reported(capsys, tmp_path)
    rows = rows_of(tmp_path, "Your arms")
    few = ["5 labels a class, top-1", "20 labels a class, top-1"]
    names = ["generated view", "linear top-1", "kNN top-1", *few, "1 % top-1", "birds2k"]
    assert list(rows[0]) == names
    assert list(rows[0].values()) == ["none", "50.00", "50.00", "35.00", "50.00", "40.00", ""]
    assert rows[1]["birds2k"] == "9.00"  # the pretraining's classes are not noted: another arm
    assert list(rows[3].values()) == ["majority class", "12.50", "", "12.50", "12.50", "", ""]
    assert "data set, method vicreg, network resnet50, epochs 100, gamma 0.5, pair crop" in text


def test_the_oracle_decides_first(tmp_path, capsys):
    """One that is clearly better, one that is not, one without a partner, one of a single seed."""
    planted = {
        "simclr": ([50, 51, 52], [52, 53.1, 53.9]),
        "vicreg": ([50, 51, 52], [52, 50, 53]),
        "byol": ([], [50, 60]),
        "swav": ([50], [60]),
    }
    few = {"args": {"labels_per_class": 10, "cache_features": True}}
    for method, tops in planted.items():
        for arm, values in zip((0.0, 0.5), tops, strict=True):
            made_by = mirror("same-class") if arm else []
            more = OWN | {"method": method, "mix": arm, "generated_by": made_by}
            for seed, top1 in enumerate(values):
                name = tmp_path / f"{method}{seed}{arm}"
                top = {"results": {"top1": {"mean": top1}}}
                write_run(name / "few", 0, seed, **more | few | top)
                rate = {"args": LINEAR | {"learning_rate": len(method)}}  # of a method: no column
                write_run(name / "all", 50 - arm - seed * arm, seed, **more | rate)
    for decides, simclr in (
        ("", "minus baseline -1.00 ± 1.24 (3) linear top-1. It is not clearly above."),
        # 2, 2.1, 1.9: mean 2, standard error 0.0577, t(0.975, 2) = 4.303
        ("10 l", "minus baseline +2.00 ± 0.25 (3) 10 labels a class, top-1. This budget can tell"),
    ):
        said = reported(capsys, tmp_path, "--decides", decides)
        assert f"simclr: oracle {simclr}" in said
        assert "byol: oracle. No interval without two seeds" in said
        assert "swav: oracle minus baseline" in said and "(1)" in said
    vicreg = "vicreg: oracle minus baseline +0.67 ± 3.79 (3) 10 labels a class, top-1. It is not"
    assert vicreg in said
    assert "This budget cannot tell whether generated views help" in said


def test_the_gate_looks_at_two_seeds():
    arm, linear = SimpleNamespace(strategy="same-class", cells={}), Column(0, 0, "linear top-1")
    for gains, closed in (([4, 3, 2], False), ([4, 2, 3], True), ([4], True)):
        assert bool(gate([(arm, linear, {"minus real": {"differences": gains}})], 3)) == closed


def test_a_report_is_no_wider_than_a_page(tmp_path, capsys):
    few = {"args": {"labels_per_class": 1, "cache_features": True}}
    for seed in (0, 1):
        for name in ("none", "random:0.25", "random:0.5"):
            made_by = mirror("inpaint", mask=name, steps=6, top_k=24, softmax_temperature=0.67)
            half = {"mix": 0.5, "generated_by": made_by, **HUNDRED}
            write_run(tmp_path / name / str(seed), 60.0, seed, **half)
            write_run(tmp_path / name / f"few{seed}", 60.0, seed, **half, **few)
    call(REPORT, tmp_path, "--all")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "1 label a class, top-1" in text


def test_generation_and_the_dissertations_file():
    assert generation([]) == ("none", {})
    assert generation(["real"]) == ("real", {})
    twelve = mirror("inpaint", mask="random:0.5", steps=12, data="x")
    assert generation(twelve) == ("inpaint", {"mask": "random:0.5"})
    six = mirror("inpaint", mask="center", steps=6)
    assert generation(six) == ("inpaint", {"mask": "center", "steps": 6})
    assert generation(mirror("inpaint", mask="random:0.0")) == ("inpaint", {"mask": "none"})
    assert generation(mirror("diffusion", strength=[0.0])) == ("diffusion", {"strength": "0.0"})
    two = mirror("diffusion", strength=[0.1, 0.2])
    assert generation(two) == ("diffusion", {"strength": "0.1, 0.2"})
    assert generation(mirror("mine", colour="red")) == ("mine", {"colour": "red"})
    # Each row has a value or a null for every column; the numbers are all there.
    for key, about in TABLES.items():
        for row in about["rows"]:
            assert len(row["values"]) == len(about["columns"]), (key, row["name"])
    rows = [row for about in TABLES.values() for row in about["rows"]]
    total = sum(value is not None for row in rows for value in row["values"])
    # Tables 2, 3, 4, 5, 6, 7, Figure 33
    assert total == 4 * 2 + 14 * 6 + 13 * 6 + 2 * 2 + 4 * 3 + 6 * 4 + 3 + 5 + 5
    table2 = [row["values"] for row in TABLES["table2"]["rows"][:4]]
    assert table2 == [[49.44, 75.58], [48.73, 73.13], [51.19, 74.97], [53.25, 77.16]]
    for key, about in TABLES.items():  # no two rows are one arm
        arms = [json.dumps(row["arm"], sort_keys=True) for row in about["rows"] if row["arm"]]
        assert len(arms) == len(set(arms)), key


def test_nothing_and_foreign_files(tmp_path, capsys):
    assert "holds no result.json" in refused(capsys, REPORT, tmp_path, "--all")
    assert not list(tmp_path.iterdir())  # images that were named by mistake stay alone
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "result.json").write_text("{}")
    assert "x holds no result of" in refused(capsys, REPORT, tmp_path)
    assert "is not a folder" in refused(capsys, REPORT, tmp_path / "missing")


def test_mirrors_of_other_data_are_not_printed_as_table_6():
    """Nor where the Frechet distance is that of other features; --all prints the table."""
    row = {"device": "CPU", "images": 100, "strategy": "inpaint", "fid": 1.7, "ssim": 0.4}
    row["latency_ms"] = 12.5
    cost = {"rows": {"mask50": row}, "features": {"features": "resnet10"}}

    def printed(cost, everything=False):
        about = table6(cost, everything)
        return dissertation_table(about, fill(about, []), everything)

    assert "Table 6" not in printed(cost) and "98.93" not in printed(cost)
    assert "1.70" in printed(cost) and "resnet10 features" in printed(cost)
    assert "Table 6" in printed(cost, everything=True)
    cost["features"]["features"] = "inception"
    assert "98.93" in printed(cost)


def test_arms_of_two_generators_are_two(tmp_path):
    """They may differ in nothing but the weights."""
    for number, name in enumerate(("long", "short")):
        made_by = mirror("inpaint", mask="random:0.5", weights=f"runs/{name}")
        made_by[0]["inputs"] = {"weights sha256": {"generator.pth": str(number)}}
        write_run(tmp_path / name, 60.0 + number, mix=0.5, generated_by=made_by)
    call(REPORT, tmp_path)
    arms = json.loads((tmp_path / "report.json").read_text())["arms"]
    assert len(arms) == 2
    assert {row["other"].split()[1] for row in arms} == {"long", "short"}
