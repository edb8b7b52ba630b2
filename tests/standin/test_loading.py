"""Models that are loaded: while others are stepped, and where the device's memory does not do."""

from __future__ import annotations

import json
from pathlib import Path

from tests.standin.libraries import run
from tests.standin.trace import Allocation, Capture, Captured, Free, Refusal, Replay

BESIDE = """
import threading
import numpy as np
from server.engine.device import choose
from tests.standin.runs import SHAPES
from tests.standin.trace import part
from training.graphs.stepping import rows, serve
from training.graphs.whole import OPERATOR, SCAN, Form

device, network = choose("cuda"), SHAPES["1x64"]
FORMS = (Form(), Form(SCAN, cuda=OPERATOR), Form(precision="float16"))
serving, done, failed = threading.Event(), threading.Event(), []

def steps():
    try:
        engine, k = serve(network, Form(), 300, device), 0
        serving.set()
        while not done.is_set():
            k += 1
            count, chunk = 1 + k % 9, 1 if k % 2 else 4
            features = np.ones((count, chunk, 16), np.float32)
            engine.run(rows(range(count), features, np.zeros(count, bool)))
            if k % 5 == 0:
                engine.write(np.arange(1, 1 + k % 70), engine.read(np.arange(1, 1 + k % 70)))
    except Exception as error:
        failed.append(error)
        serving.set()

def load(form):
    try:
        engine = serve(network, form, 300, device)
        engine.release()
    except Exception as error:
        failed.append(error)

stepping = threading.Thread(target=steps)
stepping.start()
serving.wait()
with part("loads"):
    for _ in range(2):
        loading = [threading.Thread(target=load, args=(form,)) for form in FORMS * 2]
        for each in loading:
            each.start()
        for each in loading:
            each.join()
done.set()
stepping.join()
assert not failed, failed
"""

SHORT = """
import json, os
from server.engine.device import choose
from server.errors import BadModel
from tests.standin.runs import SHAPES, free_memory
from training.graphs.stepping import serve
from training.graphs.whole import Form

def short(spare):
    os.environ["STANDIN_MEMORY"] = str(used + spare)
    try:
        serve(SHAPES["1x64"], Form(), 10_000, device).release()
        refused = ""
    except BadModel as error:
        refused = str(error)
    return refused, free_memory() - spare

device, whole = choose("cuda"), 2**30
os.environ["STANDIN_MEMORY"] = str(whole)
used = whole - free_memory()
print(json.dumps([short(spare * 2**20) for spare in range(2, 32, 2)]))
"""

BROKEN = """
import numpy as np
from server.engine.device import choose
from server.errors import BadModel
from tests.standin.runs import SHAPES, free_memory
from tests.standin.trace import part
from training.graphs import arenas
from training.graphs.stepping import rows, serve
from training.graphs.whole import Form
from training.network import random_network

device, many = choose("cuda"), random_network(16, 8, 17, 32, seed=1, softmax=False)
serving, before = serve(SHAPES["1x64"], Form(), 300, device), free_memory()
arenas.MOST_PACKED = 99
with part("broken"):
    try:
        serve(many, Form(), 300, device)
    except BadModel as error:
        print(error)
assert free_memory() == before
with part("later"):
    serving.run(rows(range(5), np.ones((5, 1, 16), np.float32), np.zeros(5, bool)))
    serve(SHAPES["2x128"], Form(), 300, device).release()
"""


def test_models_load_and_go_while_another_is_stepped_and_no_capture_is_lost(
    libraries: Path, tmp_path: Path
) -> None:
    """A capture is the whole process's: any thread's call that CUDA forbids meanwhile fails, and
    loses the capture."""
    trace, _ = run(libraries, tmp_path, "-c", BESIDE)
    loads = trace.part("loads")
    assert not trace.of(Refusal)
    assert not [each for each in trace.of(Captured) if each.lost]
    captured = {each.thread for each in loads.of(Captured)}
    assert len(captured) == 12, "each load's in its own thread"
    assert {each.thread for each in loads.of(Replay)} - captured, "the model went on meanwhile"


def test_a_model_is_refused_wherever_memory_ends_while_it_loads_and_gives_all_of_it_back(
    libraries: Path, tmp_path: Path
) -> None:
    _, printed = run(libraries, tmp_path, "-c", SHORT)
    refused, kept = zip(*json.loads(printed), strict=True)
    assert set(kept) == {0}
    first = refused.index("")
    assert not any(refused[first:]) and all(refused[:first])
    for told in ("no room for 10,000 sessions", "are not to be had", "Failed to allocate memory"):
        assert any(told in each for each in refused[:first]), told


def test_a_capture_that_fails_amid_its_graph_is_ended_and_spoils_nothing(
    libraries: Path, tmp_path: Path
) -> None:
    """onnxruntime captures no Concat of 34 states; an export would not write one."""
    trace, printed = run(libraries, tmp_path, "-c", BROKEN)
    assert "single.cuda.onnx cannot be captured" in printed and "Concat" in printed
    broken, later = trace.part("broken"), trace.part("later")
    assert len(broken.of(Capture)) == len(broken.of(Captured)) == 1
    for place in ("device", "pinned"):
        taken = sum(each.bytes for each in broken.of(Allocation) if each.place == place)
        given = sum(each.bytes for each in broken.of(Free) if each.place == place)
        assert taken == given > 0, place
    assert later.of(Replay) and not trace.of(Refusal)
    assert not [each for each in later.of(Captured) if each.lost]
