"""The store as a cluster: where keys are, slots that move, nodes that end, and what spans slots."""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from redis.crc import key_slot

from service.errors import (
    BadRequest,
    PositionMismatch,
    SessionExists,
    StoreUnavailable,
    TooLarge,
    Validation,
)
from service.limits.config import LimitConfig
from service.limits.limiter import Limiter
from service.limits.limits import NO_LIMITS, Limits
from service.limits.usage import UsageLedger
from service.sessions.codec import Export
from service.sessions.config import SessionConfig
from service.sessions.key_names import KeyNames, group_of
from service.sessions.redis_client import read_scripts
from service.sessions.session import SessionKey, TurnStatus
from service.sessions.signing import Signer
from service.sessions.store import Store
from service.sessions.store_client import check_store_at, names_of, open_client
from service.sessions.store_replies import CommitEntry, random_id
from service.store_address import ClusterAddress, is_cluster_url
from service.training.config import QueueConfig
from service.training.job_spec import TrainJobSpec
from service.training.queue import JobQueue
from service.training.recipe import Recipe
from service.training.states import JobStatus
from tests.sessions.cluster import OwnCluster, own_cluster, strict
from tests.sessions.test_protocol import run_story
from tests.sessions.world import make_program

DIGEST = "ab" * 32
CONTENT = Export("m@1", DIGEST, 1, 1, b"abc", b"")
SIGNER = Signer(b"x" * 32)
CONFIG = SessionConfig()
QUICK = SessionConfig(call_timeout_s=0.5, answer_timeout_s=0.5)
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def cluster_server(tmp_path_factory) -> Iterator[OwnCluster]:
    with own_cluster(tmp_path_factory.mktemp("cluster")) as own:
        yield own


@pytest.fixture(autouse=True)
async def closing() -> AsyncIterator[None]:
    """Transports close in the loop's next rounds."""
    yield
    await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def opened(
    cluster: OwnCluster, config: SessionConfig = CONFIG, process: str = "one"
) -> AsyncIterator[Store]:
    clients = [open_client(cluster.url, config, strict(read_scripts())) for _ in range(2)]
    made = Store(*clients, SIGNER, process, config, names_of(cluster.url))
    yield made
    await made.close()


async def begin(store: Store, key: SessionKey, incarnation: str, prompt: bytes, **more):
    token = random_id()
    begun = await store.begin(
        key,
        fencing_token=token,
        kind="turn",
        incarnation=incarnation,
        prompt=prompt,
        record="{}",
        **more,
    )
    return token, begun


async def grown(store: Store, key: SessionKey, incarnation: str, text: bytes) -> None:
    """One turn that generates a text."""
    token, begun = await begin(store, key, incarnation, b"?")
    first = begun.session.position
    entry = CommitEntry(
        key,
        token,
        first,
        text,
        TurnStatus.LENGTH,
        f"{random_id()}:{first}",
        b"s",
        checksum=sum_of(text),
    )
    assert await store.commit(random_id(), [entry]) == [("COMMITTED", first + len(text))]


def sum_of(text: bytes) -> str:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()[:8]


# -- names


def test_a_session_and_its_forks_have_one_slot_and_sessions_have_many():
    names, slots = KeyNames(is_cluster=True), set()
    for id_ in (SIGNER.new_id("me"), "of-a-user", "x", "a" * 34, "a" * 33, "A.b_c"):
        child = SIGNER.new_id("me", group_of(id_))
        assert SIGNER.is_own("me", child)
        assert group_of(child) == group_of(id_)
        grandchild = SIGNER.new_id("me", group_of(child))
        found = {
            key_slot(name.encode())
            for one in (id_, child, grandchild)
            for key in [SessionKey("me", one)]
            for name in (
                *(names.record(key), names.request(key), names.part(key, "log", "x")),
                *(names.idempotency(key, None), names.idempotency(key, "d")),
            )
        }
        assert len(found) == 1
        slots |= found
    assert len(slots) == 6
    made = [SessionKey("", SIGNER.new_id("")) for _ in range(2_000)]
    assert len({key_slot(names.record(key).encode()) for key in made}) > 1_500


def test_the_names_of_a_store_that_is_no_cluster_are_those_of_earlier_versions():
    names, key = KeyNames(), SessionKey("me", "x")
    assert names.record(key) == "carousel:session:me/x"
    assert names.request(key) == "carousel:request:me/x"
    assert names.part(key, "log", "s") == "carousel:log:s"
    assert names.idempotency(key, "d") == "carousel:retry:me/d"
    assert names.idempotency(key, None) == "carousel:retry:"
    assert names.index("me") == "carousel:sessions:me"
    assert names.prefix("training") == "carousel:"


def test_the_url_of_a_cluster():
    found = ClusterAddress.parse("rediss+cluster://u:p%40w@a:1,b,[::1]:7?ssl_ca_certs=/c")
    assert found.nodes == ("a:1", "b:6379", "[::1]:7")
    assert found.url_of("c:3") == "rediss://u:p%40w@c:3?ssl_ca_certs=/c"
    assert (found.login, found.is_tls) == (("u", "p@w"), True)
    assert found.places == [("a", 1), ("b", 6379), ("::1", 7)]
    assert ClusterAddress.parse("redis+cluster://a/0").nodes == ("a:6379",)
    for wrong in ("redis+cluster://", "redis+cluster:///run/socket", "redis+cluster://a/1"):
        with pytest.raises(BadRequest, match="is not the URL of a cluster"):
            ClusterAddress.parse(wrong)
    assert not is_cluster_url("redis://a")
    assert not is_cluster_url("unix:///redis+cluster")


async def test_a_url_that_does_not_say_what_the_store_is_is_refused(cluster):
    with pytest.raises(BadRequest, match=r"is a node of a cluster.*write redis.cluster://"):
        await check_store_at(f"redis://{cluster.nodes[0].place}", CONFIG)
    await check_store_at(cluster.url, CONFIG)
    single = replace(CONFIG, start_wait_s=0.1)
    with pytest.raises(BadRequest, match=r"no cluster can be used at 127.0.0.1:1 \("):
        await check_store_at("redis+cluster://127.0.0.1:1", single)
    cluster.nodes[2].client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(BadRequest, match="noeviction"):
            await check_store_at(cluster.url, CONFIG)
    finally:
        cluster.nodes[2].client.config_set("maxmemory-policy", "noeviction")


def test_a_script_with_a_key_that_it_does_not_declare_is_found(cluster):
    scripts = strict(read_scripts())
    broken = scripts["fork"].replace("    want_segment(ARGV[6 + i])\n", "")
    assert broken != scripts["fork"]
    story = [["fork", 0, 0, 0, "same"]]
    with pytest.raises(AssertionError, match="not declared"):
        run_story(cluster, [make_program()], story, scripts | {"fork": broken})


# -- what spans slots


async def test_sessions_of_one_owner_are_on_every_node_and_listed_once(cluster):
    async with opened(cluster) as store:
        names = [f"s{i}" for i in range(60)]
        for name in names:
            await store.create(SessionKey("me", name), CONTENT, 100)
        records = [store._names.record(SessionKey("me", name)) for name in names]
        assert {cluster.node_of(record).port for record in records} == {
            node.port for node in cluster.nodes
        }
        for limit in (1, 7, 59, 60, 100):
            found, after = [], None
            while True:
                page = await store.page("me", limit, after)
                assert len(page.sessions) <= limit
                found += [one.key.id for one in page.sessions]
                after = page.next
                if after is None:
                    break
            assert sorted(found) == sorted(names)
            assert len(found) == 60


async def test_a_limit_of_sessions_holds_over_all_slots_at_once(cluster):
    async with opened(cluster) as one, opened(cluster, process="two") as two:

        async def create(i: int) -> bool:
            store = (one, two)[i % 2]
            try:
                await store.create(SessionKey("me", SIGNER.new_id("me")), CONTENT, 100, most=10)
            except TooLarge:
                return False
            return True

        made = await asyncio.gather(*(create(i) for i in range(40)))
        assert sum(made) == 10
        assert len(cluster.keys("carousel:*:session:*")) == 10
        page = await one.page("me", 100, None)
        with pytest.raises(TooLarge):
            await one.fork(page.sessions[0].key, [SessionKey("me", "x")], None, "same", 10)
        await one.delete(page.sessions[0].key)
        assert await create(0)


async def test_expired_sessions_make_room_and_new_ones_are_not_taken_for_expired(cluster):
    async with opened(cluster) as store:
        keys = [SessionKey("me", f"s{i}") for i in range(8)]
        for key in keys:
            await store.create(key, CONTENT, 100, most=8)
        index = store._names.index("me")
        for key in keys[:4]:
            cluster.client.delete(store._names.record(key))
        with pytest.raises(TooLarge):  # they may be about to be created
            await store.create(SessionKey("me", "new"), CONTENT, 100, most=8)
        now_ms = int(cluster.client.zscore(index, "s7"))
        cluster.client.zadd(index, {key.id: now_ms - DAY_MS for key in keys})
        await store.create(SessionKey("me", "new"), CONTENT, 100, most=8)
        assert sorted(cluster.client.zrange(index, 0, -1)) == [b"new", b"s4", b"s5", b"s6", b"s7"]


async def test_an_id_is_taken_while_its_session_is_there(cluster):
    async with opened(cluster) as store:
        key = SessionKey("me", "mine")
        await store.create(key, CONTENT, 100)
        with pytest.raises(SessionExists):
            await store.create(key, CONTENT, 100)
        cluster.client.delete(store._names.record(key))  # it has expired
        await store.create(key, CONTENT, 100)
        assert [one.key.id for one in (await store.page("me", 10, None)).sessions] == ["mine"]


async def test_an_index_lives_as_long_as_a_session_that_is_used(cluster):
    async with opened(cluster) as store:
        key = SessionKey("me", "mine")
        session = await store.create(key, CONTENT, 9_000)
        index = store._names.index("me")
        cluster.client.delete(index)  # its node has lost the last writes
        await begin(store, key, session.incarnation, b"?")
        assert cluster.client.zscore(index, "mine") == session.created_s * 1000
        assert cluster.client.ttl(index) > 9_000


async def test_a_turn_of_a_process_that_is_alive_is_not_taken_over(cluster):
    async with opened(cluster) as one, opened(cluster, process="two") as two:
        key = SessionKey("me", "mine")
        session = await one.create(key, CONTENT, 100)
        await begin(one, key, session.incarnation, b"?")
        assert (await two.read(key)).is_held
        assert await two.take_over(key, random_id()) is None
        cluster.client.delete("carousel:process:one")
        await asyncio.sleep(0.6)  # for so long it is taken to be alive
        assert not (await two.read(key)).is_held
        assert await two.take_over(key, random_id()) is not None


# -- limits, usage, train jobs


async def test_limits_and_usage_are_counted_on_a_cluster(cluster):
    limits = Limits(requests_per_minute=3, tokens_per_minute=100)
    for subject in ("key", ""):  # without keys there is no id
        limiter = Limiter(cluster.url, NO_LIMITS, LimitConfig())
        leases = [await limiter.reserve(subject, limits, 10) for _ in range(3)]
        assert all(lease is not None for lease in leases)
        with pytest.raises(Exception, match="requests_per_minute of this key is 3"):
            await limiter.reserve(subject, limits, 10)
        limiter.settle(leases[0], 4)
        await limiter.close()
        assert limiter.unlimited == 0
    ledger = UsageLedger(cluster.url, LimitConfig())
    ledger.add("ann", requests=2)
    await ledger.flush()
    found = cluster.keys("carousel:*usage*")
    (day,) = [name for name in found if cluster.client.type(name) == b"hash"]
    assert len({key_slot(name.encode()) for name in found}) == 1
    assert cluster.client.hget(day, "requests:ann") == b"2"
    await ledger.close()


def test_train_jobs_are_queued_on_a_cluster(cluster):
    queue = JobQueue(cluster.url, QueueConfig())
    spec = TrainJobSpec("name", "c" * 32, Recipe())
    job, other = queue.submit("me", spec), queue.submit("", spec)
    assert queue.take() == job
    running = queue.claim(job.key, 1)
    queue.report(job.key, 1, "progress", {"step": 1})
    assert [event.name for event in queue.events(job.key, "0")] == ["progress"]
    assert running.status is JobStatus.RUNNING
    assert queue.jobs("me") == [queue.get(job.key)]
    assert queue.cancel(other.key).status is JobStatus.CANCELLED
    queue.delete(other.key)
    assert [one.key for one in queue.open()] == [job.key]
    assert len({key_slot(name.encode()) for name in cluster.keys("*job*")}) == 1
    queue.connection.close()


def test_train_jobs_without_their_cluster_are_unavailable():
    with pytest.raises(StoreUnavailable):
        JobQueue("redis+cluster://127.0.0.1:1", QueueConfig()).jobs("me")


# -- slots that move, nodes that end


async def test_a_session_is_whole_at_every_step_of_its_slots_move(cluster):
    chance = random.Random(1)
    async with opened(cluster, QUICK) as store, opened(cluster, QUICK, "two") as other:
        key, text = SessionKey("me", "mine"), bytearray(b"abc")
        session = await store.create(key, CONTENT, 1_000)
        slot = key_slot(store._names.record(key).encode())
        refused = done = 0

        async def change() -> None:
            """One turn of either process; whatever is refused has changed nothing."""
            nonlocal refused, done
            on, added = chance.choice([store, other]), chance.randbytes(5).hex().encode()
            try:
                await grown(on, key, session.incarnation, added)
            except StoreUnavailable:
                refused += 1
                return
            done += 1
            text.extend(b"?" + added)

        for node in (*cluster.nodes, cluster.node_of_slot(slot)):
            await change()
            if node is cluster.node_of_slot(slot):
                continue
            source = cluster.open_slot(slot, node)
            await change()
            while cluster.move_keys(slot, source, node, 1):
                await change()
            cluster.close_slot(slot, node)
            await change()
            assert (await other.read(key)).tokens == bytes(text)
        assert refused, "no call met a slot that was open"
        assert done >= 6
        await store.rewind(key, 3)
        assert (await store.read(key)).tokens == b"abc"


async def test_calls_wait_for_a_slot_that_is_open_for_a_moment(cluster):
    async with opened(cluster) as store:
        key = SessionKey("me", "mine")
        session = await store.create(key, CONTENT, 1_000)
        slot = key_slot(store._names.record(key).encode())
        target = next(one for one in cluster.nodes if one is not cluster.node_of_slot(slot))
        source = cluster.open_slot(slot, target)
        cluster.move_keys(slot, source, target, 1)
        turn = asyncio.create_task(grown(store, key, session.incarnation, b"xyz"))
        await asyncio.sleep(0.2)
        assert not turn.done()
        await asyncio.to_thread(cluster.move_keys, slot, source, target)
        cluster.close_slot(slot, target)
        await turn
        assert (await store.read(key)).tokens == b"abc?xyz"


async def test_a_node_that_ends_takes_its_own_sessions_only(tmp_path):
    with own_cluster(tmp_path) as cluster:
        for node in cluster.nodes:
            node.client.config_set("cluster-require-full-coverage", "no")
        async with opened(cluster, QUICK) as store:
            keys = [SessionKey("me", f"s{i}") for i in range(12)]
            made = [await store.create(key, CONTENT, 100) for key in keys]
            lost = cluster.node_of(store._names.index("me"))
            lost.kill()
            outcomes: dict[bool, int] = {True: 0, False: 0}
            for key, session in zip(keys, made, strict=True):
                is_lost = cluster_node_port(store, key, cluster) == lost.port
                outcomes[is_lost] += 1
                if is_lost:
                    with pytest.raises(StoreUnavailable, match="try again"):
                        await store.state_before(key, 3)
                else:
                    assert await store.state_before(key, 3) == b""
                    assert session.position == 3
            assert all(outcomes.values())
            lost.start()
            deadline = asyncio.get_running_loop().time() + 20
            for key in keys:
                while True:
                    try:
                        assert (await store.read(key)).tokens == b"abc"
                        break
                    except StoreUnavailable:
                        assert asyncio.get_running_loop().time() < deadline


async def test_a_replica_takes_the_place_of_a_node_and_has_its_sessions(tmp_path):
    with own_cluster(tmp_path) as cluster:
        async with opened(cluster, QUICK) as store:
            key = SessionKey("me", "mine")
            session = await store.create(key, CONTENT, 1_000)
            await grown(store, key, session.incarnation, b"xyz")
            master = cluster.node_of(store._names.record(key))
            for node in cluster.nodes:
                node.client.config_set("cluster-node-timeout", 1_000)
            replica = await asyncio.to_thread(cluster.add_replica, tmp_path / "replica", master)
            replica.client.config_set("cluster-node-timeout", 1_000)
            while master.client.execute_command("WAIT", 1, 5_000) < 1:
                pass
            master.kill()
            deadline = asyncio.get_running_loop().time() + 60
            while True:
                try:
                    found = await store.read(key)
                    break
                except StoreUnavailable:
                    assert asyncio.get_running_loop().time() < deadline, "no replica has taken over"
            assert found.tokens == b"abc?xyz"
            _, begun = await begin(store, key, session.incarnation, b"!")
            assert begun.session.epoch > session.epoch, "its last writes may be lost"
            assert (await store.read(key)).tokens == b"abc?xyz!"


def cluster_node_port(store: Store, key: SessionKey, cluster: OwnCluster) -> int:
    slot = key_slot(store._names.record(key).encode())
    bounds = [16_384 * i // 3 for i in range(1, 4)]
    return next(node.port for node, end in zip(cluster.nodes, bounds, strict=True) if slot < end)


async def test_a_rewind_and_a_fork_of_a_long_chain_declare_every_key(cluster):
    config = replace(CONFIG, retain_every=4)
    async with opened(cluster, config) as store:
        key = SessionKey("me", "mine")
        session, text = await store.create(key, CONTENT, 1_000), b"abc"
        for i in range(30):
            token, begun = await begin(store, key, session.incarnation, b"?")
            at = begun.session.position
            entry = CommitEntry(
                *(key, token, at, b"xyz", TurnStatus.LENGTH, f"{random_id()}:{at}", b"s"),
                retained=str(at // 4),
                checksum=sum_of(b"xyz"),
            )
            await store.commit(random_id(), [entry])
            text += b"?xyz"
            children = [SessionKey("me", SIGNER.new_id("me", group_of(key.id))) for _ in range(2)]
            await store.fork(key, children, None, "derive")
            if i % 3 == 2:
                text = text[:-2]
                await store.rewind(key, len(text))
            child = await store.read(children[0])
            assert child.tokens[: len(text)] == text
        assert (await store.read(key)).tokens == text
        assert await store.state_before(key, len(text)) == b"s"
        with pytest.raises(PositionMismatch):
            await store.rewind(key, 10_000)
        for one in (await store.page("me", 100, None)).sessions:
            await store.delete(one.key)
        assert cluster.keys("carousel:{me/*:session:*") == []


def test_an_id_of_a_session_is_checked_before_any_slot_is_computed():
    with pytest.raises(Validation):
        SessionKey("me", "{x}")
