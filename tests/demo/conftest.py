"""One page for all tests, with limits that are quickly reached."""

from collections.abc import Iterator

import pytest

from tests.demo.serving import Served, served, write_models

MAX_UPLOAD_MB = 1


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Of both models. At its end: no visitor's mistake gave a traceback."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("demo")
    options = ["--max-upload-mb", str(MAX_UPLOAD_MB)]
    with served(write_models(folder), folder / "log", options=options) as running:
        yield running
    assert "Traceback" not in running.complaints.read_text()
