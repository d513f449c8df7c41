"""The vendor's own client against the sandbox: so both our client and the sandbox are held to the real thing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.sandbox import Sandbox, replica_set, single
from support.testbed import needed_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The vendor's client uses what newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """A sandbox by the host's clock, which is the one that the vendor's client signs by; no proxy on the way."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with Sandbox(fleet=(replica_set("orders"), single("solo")), lines_per_second=0, speed=1000) as started:
        yield started


def client(cloud: Sandbox, access_key: str, secret_key: str, *, token: str = "", look_up: bool = False) -> Any:
    """Return the vendor's client; without a project's id it looks it up by the region's name."""
    core = "huaweicloudsdkcore"
    credentials = needed_module(f"{core}.auth.credentials").BasicCredentials(
        access_key, secret_key, None if look_up else cloud.project_id
    )
    credentials.with_security_token(token or None).with_iam_endpoint(cloud.iam_endpoint)
    region = needed_module(f"{core}.region.region").Region(cloud.project_name, cloud.endpoint)
    dds = needed_module("huaweicloudsdkdds.v3").DdsClient
    return dds.new_builder().with_credentials(credentials).with_region(region).build()


def lasting(cloud: Sandbox, *, look_up: bool = False) -> Any:
    return client(cloud, cloud.access_key, cloud.secret_key, look_up=look_up)


async def download(dds: Any, instance_id: str, **lists: list[str]) -> Any:
    v3 = needed_module("huaweicloudsdkdds.v3")
    request = v3.DownloadErrorlogRequest(instance_id=instance_id, body=v3.DownloadErrorlogRequestBody(**lists))
    return await asyncio.to_thread(dds.download_errorlog, request)


async def test_it_is_told_of_exports(cloud: Sandbox) -> None:
    reply = await download(lasting(cloud), cloud.fleet[0].id)

    assert ([row.node_name for row in reply.list], reply.status) == (
        [node.name for node in cloud.fleet[0].nodes],
        "CREATING",
    )


async def test_it_is_given_the_links_of_finished_exports(cloud: Sandbox) -> None:
    cloud.write("solo_single_node_1", b"a line\n")
    dds, instance = lasting(cloud), cloud.fleet[1]
    await download(dds, instance.id)
    cloud.finish_exports()

    reply = await download(dds, instance.id)

    assert [(row.status, row.file_link.startswith(cloud.endpoint)) for row in reply.list] == [("SUCCESS", True)]


NODES, FILES = {"node_id_list"}, {"file_name_list"}


@pytest.mark.parametrize(
    ("lists", "expected"), [(NODES, [0, 1]), (FILES, [1, 2]), (NODES | FILES, [1])], ids=["nodes", "files", "both"]
)
async def test_it_is_told_of_the_nodes_and_files_that_it_asks_for(
    cloud: Sandbox, lists: set[str], expected: list[int]
) -> None:
    dds, instance = lasting(cloud), cloud.fleet[0]
    names = [row.file_name for row in (await download(dds, instance.id)).list]
    cloud.finish_exports()
    asked = {"node_id_list": [node.id for node in instance.nodes[:2]], "file_name_list": names[1:]}

    reply = await download(dds, instance.id, **{name: asked[name] for name in lists})

    shown = [(row.node_name, row.file_name, row.status) for row in reply.list]
    assert (shown, reply.count) == (
        [(instance.nodes[place].name, names[place], "SUCCESS") for place in expected],
        len(expected),
    )


@pytest.mark.parametrize(
    ("lists", "code"),
    [
        ({"node_id_list": ["f" * 32 + "no02"]}, "DBS.280407"),
        ({"file_name_list": ["no_such_file"]}, "DBS.280361"),
    ],
)
async def test_it_is_refused_what_the_cloud_does_not_know(
    cloud: Sandbox, lists: dict[str, list[str]], code: str
) -> None:
    exceptions = needed_module("huaweicloudsdkcore.exceptions.exceptions")

    with pytest.raises(exceptions.ClientRequestException) as refused:
        await download(lasting(cloud), cloud.fleet[0].id, **lists)

    assert (refused.value.status_code, refused.value.error_code) == (400, code)


async def test_it_is_listed_the_instances(cloud: Sandbox) -> None:
    v3 = needed_module("huaweicloudsdkdds.v3")
    request = v3.ListInstancesRequest(name="*o", limit=100, offset=0)

    reply = await asyncio.to_thread(lasting(cloud).list_instances, request)

    assert sorted(instance.name for instance in reply.instances) == ["orders", "solo"]


async def test_it_looks_its_project_up_by_the_name_of_the_region(cloud: Sandbox) -> None:
    dds = await asyncio.to_thread(lasting, cloud, look_up=True)

    await download(dds, cloud.fleet[0].id)

    assert (cloud.calls["projects"], [request.status for request in cloud.requests]) == (1, [200, 200])


async def test_it_is_served_with_a_temporary_key(cloud: Sandbox) -> None:
    key = cloud.issue_key()

    reply = await download(client(cloud, key.access, key.secret, token=key.token), cloud.fleet[0].id)

    assert reply.status == "CREATING"


async def test_it_is_refused_with_a_wrong_secret_key(cloud: Sandbox) -> None:
    exceptions = needed_module("huaweicloudsdkcore.exceptions.exceptions")
    dds = client(cloud, cloud.access_key, "wrong")

    with pytest.raises(exceptions.ClientRequestException) as refused:
        await download(dds, cloud.fleet[0].id)

    assert (refused.value.status_code, refused.value.error_code) == (401, "APIGW.0301")
