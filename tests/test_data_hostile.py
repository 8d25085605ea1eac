"""Damaged files, and what is no file: refused in one sentence, in little memory and time."""

import mutations
import pytest
from data_formats import FORMATS
from no_files import NO_FILES, WORLD
from test_data_errors import sentence_of

from iresnet_fast import data


@pytest.mark.parametrize("kind", FORMATS)
def test_mutants_are_loaded_or_refused(kind, tmp_path):
    """A small share of those that were tried: bits, pieces and lengths, everywhere in a file."""
    write, name, file = FORMATS[kind]
    write(tmp_path)
    good = (tmp_path / file).read_bytes()

    def load_all():
        said = []
        for seed in range(60):
            (tmp_path / file).write_bytes(mutations.mutant(good, seed))
            try:
                data.load(name, tmp_path)
            except data.DataError as error:
                said.append(str(error))
        assert len(said) > 5
        assert not any("\n" in sentence for sentence in said)

    assert mutations.outcome(load_all, ()) == "loaded"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_not_waited_for(kind, what, tmp_path):
    """Named pipes, devices without an end, links to themselves, and a file of a terabyte in which nothing is."""
    write, name, file = FORMATS[kind]
    write(tmp_path)
    (tmp_path / file).unlink()
    NO_FILES[what](tmp_path / file)
    assert mutations.outcome(lambda: data.load(name, tmp_path), data.DataError, seconds=20) == "refused"
    said = {"pipe": "a named pipe", "device": "a device", "socket": "a socket", "hole": f"got {WORLD}"}
    if what in said and kind not in ("tar", "idx.gz"):  # whose files may also be other ones
        assert said[what] in sentence_of(name, tmp_path)


@pytest.mark.parametrize("kind", ["npy", "csv"])
def test_what_the_system_makes_up_is_not_read_to_its_end(kind, tmp_path):
    """The map of a process's memory has no size, and a hundred gigabytes."""
    (tmp_path / f"table.{kind}").symlink_to("/proc/self/pagemap")

    def load():
        assert "fit in memory" not in sentence_of(f"table.{kind}", tmp_path)

    assert mutations.outcome(load, (), 0.75, 20) == "loaded"


@pytest.mark.parametrize("name", ["a\0b.csv", "a" * 5000 + ".csv"])
def test_names_that_no_file_can_have(name, tmp_path):
    sentence_of(name, tmp_path)
    sentence_of("mnist", tmp_path / name)
