"""The C++ front over the core: answers and impressions of the Python front, while models change; its settings."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import grpc
import numpy as np
import pytest

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError, KvError
from monolith_py.io.codec import encode_impression
from monolith_py.observe.metrics import RANK_CANDIDATES, RANK_REQUESTS
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving import front_calls, front_cpp
from monolith_serving.core_service import CoreService
from monolith_serving.front import Front, PythonFront
from monolith_serving.front_cpp import CppFront, FrontParts
from monolith_serving.process import make_server
from monolith_serving.service import RankingService
from tests.fronts import FreshReplica, needs_cpp_front
from tests.unit.serving.ranking.core_setting import TIME_MS, Setting, random_job

TIMEOUT_S = 60.0
METHOD = "/monolith.v1.Ranking/Rank"


class CountedCore(CoreService):
    """Counts the calls that come to Python."""

    num_calls = 0

    def rank(self, value, context):
        self.num_calls += 1
        return super().rank(value, context)


class Both:
    """Both fronts over one ranker."""

    def __init__(self, seed: int, stack: ExitStack) -> None:
        generator = np.random.default_rng(seed)
        job = random_job(generator)
        config = job.serving.model_copy(update={"port": 0, "max_candidates": 200, "front_threads": 2, "default_deadline_s": TIMEOUT_S})
        self.setting = setting = Setting(job.model_copy(update={"serving": config}), generator)
        setting.replica.is_ready = True
        clock, tasks = SystemClock(), Schema.of(job).tasks
        service = RankingService(setting.ranker, setting.replica, tasks, config, clock, EventTimeRule.of(job.log))
        self.core = CountedCore(setting.core, config, clock)
        setting.ranker._impressions = setting
        fronts: dict[str, Front] = {
            "cpp": CppFront(FrontParts(service, setting.replica, setting.core, self.core, setting), config, clock),
            "python": PythonFront(make_server(service, config, clock, CoreService(setting.core, config, clock)), config),
        }
        self.fronts, self.calls = fronts, {}
        self.stops = {}
        for name, front in fronts.items():
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{front.start()}"))
            self.calls[name] = channel.unary_unary(METHOD)
            self.stops[name] = stack.enter_context(ExitStack())
            self.stops[name].callback(front.stop, TIMEOUT_S)

    def ask(self, name: str, value: bytes) -> tuple[str, str] | pb.RankResponse:
        """Return the answer without the ages of the model, or code and details of the failure."""
        try:
            answer = self.calls[name](value, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        response = pb.RankResponse.FromString(answer)
        assert response.SerializeToString() == answer
        assert 17 <= response.staleness_ms < 1000 * TIMEOUT_S and 23 <= response.event_staleness_ms < 1000 * TIMEOUT_S
        response.ClearField("staleness_ms")
        response.ClearField("event_staleness_ms")
        return response

    def stop(self, name: str) -> dict[str, bytes]:
        """Stop a front; return the impressions since the last stop, by request."""
        self.stops[name].close()
        kept = {impression.request_id: encode_impression(impression) for impression in self.setting.kept}
        assert len(kept) == len(self.setting.kept)
        self.setting.kept.clear()
        return kept


@pytest.fixture
def both() -> Iterator:
    with ExitStack() as stack:
        yield lambda seed: Both(seed, stack)


def requests_of(setting: Setting) -> dict[str, bytes]:
    """Return requests that the core answers, others, and some that break a rule."""
    task, names = Schema.of(setting.job).tasks[0], [feature.name for feature in Schema.of(setting.job).all_features]
    plain = {f"r{n}": setting.request(n, request_id=f"r{n}", time_ms=TIME_MS) for n in (1, 2, 7, 130)}
    rare = {
        "top": setting.request(9, request_id="top", time_ms=TIME_MS, top_k=3, task_names=[task]),
        "silent": setting.request(3, request_id="silent", time_ms=TIME_MS, log_impression=False),
        "explained": setting.request(3, request_id="explained", time_ms=TIME_MS, explain=True),
        "returned": setting.request(3, request_id="returned", time_ms=TIME_MS, log_impression=False, return_features=names),
        "no such feature": setting.request(3, request_id="none", time_ms=TIME_MS, return_features=["none"]),
        "other version": setting.request(3, request_id="other", time_ms=TIME_MS, model_version="9"),
        "old": setting.request(3, request_id="old", time_ms=5),
        "large": setting.request(201, request_id="large"),
        "empty": pb.RankRequest(),
        "unknown feature": pb.RankRequest(item_ids=[1]),
    }
    rare["unknown feature"].context.sparse.add(name="none", fids=[1])
    values = {name: message.SerializeToString() for name, message in {**plain, **rare}.items()}
    return values | {"garbage": b"\xff" * 50, "nothing": b""}


@needs_cpp_front
@pytest.mark.parametrize("seed", range(4))
def test_answers_refusals_and_impressions_are_those_of_the_python_front(both, seed):
    fronts = both(seed)
    values = requests_of(fronts.setting)
    expected = {name: fronts.ask("python", value) for name, value in values.items()}
    impressions = fronts.stop("python")
    assert set(impressions) == {"r1", "r2", "r7", "r130", "top"}
    answered = {name for name, answer in expected.items() if isinstance(answer, pb.RankResponse)}
    assert answered == {*impressions, "silent", "explained", "returned"}
    assert {name: fronts.ask("cpp", value) for name, value in values.items()} == expected
    fronts.core.num_calls = 0
    assert {name: fronts.ask("cpp", values[name]) for name in ("r1", "silent")} == {name: expected[name] for name in ("r1", "silent")}
    assert fronts.core.num_calls == 0  # the stores are warm: Python sees none of them
    assert fronts.calls["cpp"](values["r1"], timeout=TIMEOUT_S)
    kept = fronts.setting.kept
    with pytest.raises(grpc.RpcError) as caught:
        fronts.calls["cpp"](b"", timeout=1e-3)  # expired, or refused: no impression either way
    assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INVALID_ARGUMENT)
    fronts.fronts["cpp"].stop(TIMEOUT_S)
    repeated = [one for one in kept if one.request_id == "r1"]
    assert len(repeated) == 3 and len({encode_impression(one) for one in repeated}) == 1
    assert {one.request_id: encode_impression(one) for one in kept} == impressions and len(kept) == len(impressions) + 2


@needs_cpp_front
def test_a_handler_that_exits_ends_its_call_and_no_thread(both, monkeypatch, caplog):
    fronts = both(0)

    def leave(*_: object) -> None:
        raise SystemExit

    value = fronts.setting.request(1, request_id="r", return_features=["none"]).SerializeToString()  # left to Python
    with monkeypatch.context() as patch:
        patch.setattr(RankingService, "Rank", leave)
        for _ in range(fronts.setting.job.serving.grpc_threads + 1):
            assert fronts.ask("cpp", value)[0] == "INTERNAL"
        patch.setattr(front_calls, "code_of", leave)  # so that the error leaves the answer of a call
        assert fronts.ask("cpp", value)[0] == "INTERNAL"
    assert fronts.ask("cpp", value)[0] == "INVALID_ARGUMENT"
    assert "a call could not be ended" in caplog.text


@needs_cpp_front
def test_requests_are_answered_while_models_change_and_counted_once(both):
    fronts = both(5)
    setting, first = fronts.setting, fronts.setting.replica.state
    value = setting.request(20, time_ms=TIME_MS).SerializeToString()
    expected = fronts.ask("cpp", value)
    before = RANK_REQUESTS.labels(code="OK")._value.get(), RANK_CANDIDATES._value.get()
    stop = threading.Event()

    def change() -> None:
        seq = 2
        while not stop.is_set():
            seq += 1
            # A new model object now and then: the one before is freed while requests may use it.
            model = setting.replica.state.model if seq % 2 else first.after((4, seq), 0).model
            setting.replica.state = replace(first, model=model, next_delta=(4, seq))
            setting.core._packed = None
            setting.replica.on_change()

    thread = threading.Thread(target=change)
    thread.start()
    futures = [fronts.calls["cpp"].future(value, timeout=TIMEOUT_S) for _ in range(400)]
    answers = [pb.RankResponse.FromString(future.result()) for future in futures]
    stop.set()
    thread.join()
    assert all(answer.scores == expected.scores for answer in answers)
    assert len({answer.request_id for answer in answers}) == 400  # ids that the front has given
    fronts.stop("cpp")
    after = RANK_REQUESTS.labels(code="OK")._value.get(), RANK_CANDIDATES._value.get()
    assert (after[0] - before[0], after[1] - before[1]) == (400, 8000)


@needs_cpp_front
def test_features_that_cannot_be_read_are_left_out_and_the_impression_with_them(both, monkeypatch):
    fronts = both(0)

    def fail(*arguments):
        raise KvError("away")

    monkeypatch.setattr(fronts.setting.store, "load", fail)
    answer = fronts.ask("cpp", fronts.setting.request(3, request_id="bare", time_ms=TIME_MS).SerializeToString())
    assert answer.request_id == "bare" and "bare" not in fronts.stop("cpp")


@needs_cpp_front
def test_a_compressed_message_is_refused_before_it_is_inflated(both):
    """A message of 0.6 MB took 0.6 GB of memory, as gRPC 1.51 looks at the size of the inflated one."""
    call = both(0).calls["cpp"]
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(100), timeout=TIMEOUT_S, compression=compression)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@needs_cpp_front
def test_an_error_at_one_impression_does_not_end_the_log_of_later_ones(both, monkeypatch):
    fronts = both(0)
    setting, failed = fronts.setting, threading.Event()
    put = setting.put

    def fail_once(served, num_bytes) -> None:
        if failed.is_set():
            return put(served, num_bytes)
        failed.set()
        raise RuntimeError("a bug")

    monkeypatch.setattr(setting, "put", fail_once)
    fronts.ask("cpp", setting.request(3, request_id="first", time_ms=TIME_MS).SerializeToString())
    assert failed.wait(TIMEOUT_S)
    fronts.ask("cpp", setting.request(3, request_id="second", time_ms=TIME_MS).SerializeToString())
    assert set(fronts.stop("cpp")) == {"second"}


def test_a_build_without_the_library_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(front_cpp, "library", lambda: tmp_path / "_front.so")
    with pytest.raises(
        ConfigError, match=r"serving.front must be 'python' in a build without libgrpc\+\+ \(libgrpc\+\+-dev and pkg-config"
    ):
        CppFront(FrontParts(None, FreshReplica(), None, None, None), ServingConfig(), SystemClock())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@needs_cpp_front
def test_a_port_that_is_taken_stops_the_start(listener):
    taken = listener.getsockname()[1]
    for settings in ({"port": taken}, {"port": 0, "health_port": taken}):
        front = CppFront(FrontParts(None, FreshReplica(), None, None, None), ServingConfig(**settings), SystemClock())
        with pytest.raises(ConfigError, match=rf"must be free to listen on.*cannot listen on 127.0.0.1:{taken}"):
            front.start()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"front_threads": 2}, "front_threads must come with front = 'cpp'"),
        ({"front": "cpp", "reflection": True}, "reflection must come with front = 'python'"),
    ],
)
def test_settings_that_a_front_does_not_have_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        ServingConfig(**settings)
