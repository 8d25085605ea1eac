"""The page about a run: what is on it for each kind of model, what is said where something is missing, and escaping."""

import base64
import html.parser
import math
import shlex
import shutil

import numpy as np
import pytest
import torch
from report_runs import HOSTILE, KINDS, train
from training_examples import make_config, make_data, make_model

from iresnet_fast import training
from iresnet_fast.cli import main
from iresnet_fast.data import DataSet
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.training import checkpoint, report
from iresnet_fast.training.report import _measure

pytestmark = pytest.mark.usefixtures("one_thread")

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """The elements of a page, in order, and its text; an element that is not closed is an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.code, self._open = [], "", {}, []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        inside = [tag for tag, _ in self._open]
        if "style" in inside:
            return
        self.text += data
        if "pre" in inside:
            kind = next(attributes["class"] for tag, attributes in self._open if tag == "pre")
            self.code.setdefault(kind, []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run of each kind, and its data."""
    torch.set_num_threads(1)
    made = {kind: tmp_path_factory.mktemp("runs") / kind for kind in KINDS}
    return {kind: (folder, train(kind, folder)) for kind, folder in made.items()}


@pytest.fixture(scope="module")
def pages(folders, tmp_path_factory):
    """The text of the page of each."""
    folder = tmp_path_factory.mktemp("pages")
    written = {k: report.write_report(run, folder / f"{k}.html", data) for k, (run, data) in folders.items()}
    return {kind: path.read_text("utf-8") for kind, path in written.items()}


@pytest.fixture
def run(folders, tmp_path):
    """A copy of the run on the plane that may be changed, and its data."""
    folder, data = folders["plane"]
    return shutil.copytree(folder, tmp_path / "run"), data


def read(path):
    return Page(path.read_text("utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_whole_and_needs_nothing_else(pages, kind):
    page = Page(pages[kind])
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        assert "srcset" not in attributes
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in [found.get("id") for _, found in page.elements]
    identities = [found["id"] for _, found in page.elements if "id" in found]
    assert len(identities) == len(set(identities))
    assert page.all("img")
    for image in page.all("img"):
        kind_of, _, content = image["src"].partition(";base64,")
        assert kind_of in ("data:image/png", "data:image/svg+xml")
        assert base64.b64decode(content, validate=True).startswith((b"\x89PNG", b"<?xml"))
        assert len(image["alt"]) > 20
    policy = next(entry["content"] for entry in page.all("meta") if "http-equiv" in entry)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert "url(" not in pages[kind]
    assert "@import" not in pages[kind]


SECTIONS = {"quality", "curves", "samples", "calibration", "reconstructions", "certificates", "data", "settings", "use"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_has_what_it_promises(pages, kind):
    page = Page(pages[kind])
    of_density = {"samples", "calibration"}
    found = {attributes["id"] for attributes in page.all("h2")} - {"warnings"}
    assert found == (SECTIONS - of_density if kind == "classifier" else SECTIONS)
    assert "This could not be made" not in page.text
    assert "not at hand" not in page.text
    assert "\N{PLUS-MINUS SIGN}" in page.text
    assert "body." in page.text or "blocks" in page.text  # names of blocks with their certificates
    n_pictures = {"plane": 4, "table": 3, "signals": 3, "flow": 4, "classifier": 2, "hybrid": 4}
    assert len(page.all("img")) == n_pictures[kind]


def test_numbers_are_those_of_the_functions_that_measure(folders, pages):
    folder, data = folders["plane"]
    model = training.load_model(folder)
    found = training.evaluate(model, data.test)
    assert f"{found.metrics['nats']:.3f} \N{PLUS-MINUS SIGN} {found.standard_errors['nats']:.3f}" in pages["plane"]
    assert f"{len(data.test)} test samples" in pages["plane"]
    assert f"{sum(parameter.numel() for parameter in model.parameters())}" in pages["plane"]


def test_nats_are_those_of_the_columns_of_the_file(folders, pages):
    folder, data = folders["table"]
    found = training.evaluate(training.load_model(folder), data.test, context=data.test_context)
    value = found.metrics["nats"] + math.log(4.0)  # the scale of one of the columns
    assert f"{value:.3f} \N{PLUS-MINUS SIGN}" in pages["table"]
    assert "Nats are those of the scaled columns: +1.386 for those of the file." in pages["table"].replace("&#43;", "+")


def test_what_differs_from_the_defaults_is_emphasised(pages):
    rows = pages["plane"].split('<tr class="differs">')[1:]
    names = [row.split('<th scope="row">')[1].split("<")[0] for row in rows]
    assert {"hidden", "blocks", "max_steps", "log_steps", "batch_size"} <= set(names)
    assert not {"coeff", "optimizer", "keep", "seed"} & set(names)


def test_names_of_columns_are_text(pages):
    page = Page(pages["table"])
    assert HOSTILE in page.text
    assert "<b>Bern</b>" in page.text
    assert "<script" not in pages["table"].lower()
    assert "<b>" not in pages["table"]
    for said in ("minus 170", "divided by 4", "3 categories", "context, number", "codes with noise"):
        assert said in page.text


def test_the_table_has_rows_of_samples_in_its_own_units(pages):
    page = Page(pages["table"])
    _, _, after = page.text.partition("Rows drawn from the model")
    rows, _, _ = after.partition("Calibration")
    assert sum(rows.count(city) for city in ("Rome", "<b>Bern</b>", "Oslo")) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_snippet_of_python_runs(pages, kind):
    (code,) = Page(pages[kind]).code["python"]
    names = {}
    exec(compile(code, "snippet", "exec"), names)
    result = names["classes"] if kind == "classifier" else names["log_prob"]
    assert result.shape == (16,)


def write_table(path):
    """A table with a gap, whole numbers, and a context of categories and numbers."""
    lines, places = ["a length,count,place,dose in mg"], ("it's Rome", "Bern", "Oslo")
    for i in range(120):
        gap = "" if i == 7 else f"{math.sin(i) * 3:.4f}"
        lines.append(f"{gap},{i % 5},{places[i % 3]},{math.cos(i * 1.7):.3f}")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


TINY = ["--max-steps", "3", "--set", "blocks=[1]", "--set", "hidden=[8,8]", "--batch-size", "30", "--quiet"]
COMMANDS = {
    "points": ["--data", "moons"],
    "table": ["--data", "TABLE", "--context", "place,dose in mg", "--categorical", "place", "--missing", "drop"],
    "images": ["--data", "digits"],
    "classifier": ["--data", "digits", "--model", "classifier"],
    "hybrid": ["--data", "digits", "--model", "hybrid"],
    "signals": ["--data", "SIGNALS"],
}
SCALES = {"classifier": ["--set", "blocks=[1,1]", "--set", "hidden=[4,4]"]}


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_commands_run(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a folder's name"
    arguments = [write_table(tmp_path / "a table.csv") if word == "TABLE" else word for word in COMMANDS[kind]]
    if kind == "signals":
        np.save("waves.npy", np.random.default_rng(0).normal(size=(60, 2, 16)).astype(np.float32))
        arguments = ["--data", "waves.npy"]
    assert main(["train", *arguments, *TINY, *SCALES.get(kind, []), "--folder", str(folder)]) == 0
    assert f"report: iresnet-fast report {shlex.quote(str(folder))} writes" in capsys.readouterr().out
    drawn = {path.name for path in folder.glob("*.png")}
    of_columns = {"pairs.png", "calibration.png"}
    assert drawn & of_columns == (of_columns if kind in ("points", "table") else set())
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"{folder / 'report.html'} (")
    assert said.endswith("B, one file that needs no network)")
    page = read(folder / "report.html")
    assert "This could not be made" not in page.text
    assert "not at hand" not in page.text
    commands = page.code["command"]
    expected = {"evaluate", "score"} if kind == "classifier" else {"evaluate", "score", "sample"}
    assert {shlex.split(command)[1] for command in commands} == expected
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "iresnet-fast"
        assert main(arguments) == 0, command
    if kind == "table":
        assert "1 of 120 rows" in page.text  # what was left out
        assert "place" in page.text
        assert "integer, steps of 1 with noise" in page.text


def test_a_model_worse_than_a_gaussian_is_warned_of(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 3, generator=generator) @ torch.tensor([[1.0, 0.99, 0.9], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
    dataset = DataSet("strip", x[:1500], x[1500:])
    model = IResNetFlow(FlowConfig((3,), blocks=(1,), hidden=(4, 4)))
    training.fit(model, dataset, make_config(max_steps=1), tmp_path / "run", show_progress=False)
    page = read(report.write_report(tmp_path / "run", dataset=dataset))
    assert "The model is worse than a full-covariance Gaussian by " in page.text.partition("Largest Lipschitz")[0]


def test_other_data_than_those_of_the_training_are_said(run):
    folder, data = run
    other = DataSet("curve", data.train + 1.0, data.test)
    text = "The data are not those of the training: their fingerprint is another."
    assert text in read(report.write_report(folder, dataset=other)).text
    assert text not in read(report.write_report(folder, dataset=data)).text


def test_a_run_that_keeps_its_best_model(tmp_path):
    data = make_data()
    config = make_config(validation=0.2, eval_steps=2, max_steps=8)
    training.fit(make_model(), data, config, tmp_path, show_progress=False)
    page = read(report.write_report(tmp_path, dataset=data))
    step = training.read_metadata(tmp_path)["step"]
    assert (f"{step} steps, the best of 8" if step < 8 else "8 steps") in page.text
    assert "not finished" not in page.text


def test_a_run_that_is_not_finished(run):
    folder, data = run
    (folder / "model.safetensors").unlink()
    page = read(report.write_report(folder, dataset=data))
    assert "The run is not finished: this is its model after 12 steps." in page.text


def test_a_single_test_sample_and_settings_of_another_version(run, tmp_path):
    folder, data = run
    found = checkpoint.read(folder / "model.safetensors")
    metadata = {name: found.metadata[name] for name in found.metadata if name not in ("format", "version")}
    metadata["train_config"] = {**metadata["train_config"], "of_the_future": "<i>"}
    checkpoint.write(tmp_path / "model.safetensors", found.tensors, metadata)
    page = read(report.write_report(tmp_path, dataset=DataSet("curve", data.train, data.test[:1])))
    assert "of_the_future" in page.text
    assert "nan" not in page.text.partition("Training")[0]
    assert "1 test sample" in page.text


def test_a_run_without_its_log(run):
    folder, data = run
    (folder / "log.csv").unlink()
    page = read(report.write_report(folder, dataset=data))
    assert "The folder of the run has no log.csv that can be read (No such file or directory)." in page.text
    assert len(page.all("img")) == 3


def test_a_damaged_log_is_said_and_the_rest_is_drawn(run):
    folder, data = run
    log = folder / "log.csv"
    log.write_text(log.read_text()[:-30] + "\nnonsense")
    page = read(report.write_report(folder, dataset=data))
    assert "log.csv is damaged: 2 of its lines are no rows and are left out here." in page.text
    assert len(page.all("img")) == 4


def test_data_that_cannot_be_found(run, capsys):
    folder, _ = run
    assert main(["report", str(folder)]) == 0
    page = read(folder / "report.html")
    assert "The data could not be loaded, so that what needs them is left out: " in page.text
    assert page.text.count("The data of the run are not at hand, and this needs them.") == 3
    assert len(page.all("img")) == 2  # curves, and points drawn from the model


def test_samples_of_a_conditional_model_need_data(folders, tmp_path):
    page = read(report.write_report(folders["table"][0], tmp_path / "page.html"))
    assert "samples need a context from them" in page.text


def test_a_part_that_fails_does_not_take_others_with_it(run, monkeypatch):
    folder, data = run

    def fail(*_, **__):
        raise ValueError("a norm must be <finite>, got nan; train again.")

    monkeypatch.setattr(_measure, "certify", fail)
    page = read(report.write_report(folder, dataset=data))
    assert "This could not be made: a norm must be <finite>, got nan; train again." in page.text
    assert len(page.all("img")) == 4


def test_norms_that_have_not_converged_are_said(run):
    folder, data = run
    log = folder / "log.csv"
    names, *rows = log.read_text().splitlines()
    cells = rows[-1].split(",")
    cells[names.split(",").index("unsettled_norms")] = "17"
    log.write_text("\n".join([names, *rows[:-1], ",".join(cells)]) + "\n")
    assert "17 spectral norms had not converged" in read(report.write_report(folder, dataset=data)).text


def test_a_file_of_a_run_and_a_place_for_the_page(run, tmp_path):
    folder, data = run
    path = report.write_report(folder / "model.safetensors", dataset=data)
    assert path == folder / "report.html"
    assert str(folder / "model.safetensors") in Page(path.read_text("utf-8")).code["python"][0]
    assert report.write_report(folder, tmp_path / "new" / "page.html", data) == tmp_path / "new" / "page.html"


def test_data_of_another_shape(folders, tmp_path):
    with pytest.raises(ValueError, match="event_shape of the model must be"):
        report.write_report(folders["plane"][0], tmp_path / "page.html", folders["flow"][1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_run"], "no_such_run must be"),
        (["RUN", "--out", "page.pdf"], "--out must end in .html or .htm, got 'page.pdf'; name it e.g. report.html."),
        (["RUN", "--out", "FOLDER"], "--out must be a file, got the folder"),
        (["RUN", "--data", "digits"], "as in training, got images of 1 x 8 x 8 in digits; pass such data"),
    ],
)
def test_errors_are_one_sentence(run, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(run[0]), "FOLDER": str(tmp_path)}
    assert main(["report", *(places.get(argument, argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (run[0] / "report.html").exists()


def test_the_global_generator_and_the_model_files_are_left_alone(run):
    folder, data = run
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    report.write_report(folder, dataset=data)
    assert torch.equal(torch.get_rng_state(), state)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after.pop("report.html")
    assert after == before
