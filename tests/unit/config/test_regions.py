"""Clouds by name."""

from __future__ import annotations

import re

import pytest

from ddslogd.config.regions import Endpoints, endpoints, regions


@pytest.mark.parametrize(
    ("region", "dds", "iam"),
    [
        (
            "ap-southeast-1",
            "https://dds.ap-southeast-1.myhuaweicloud.com",
            "https://iam.ap-southeast-1.myhuaweicloud.com",
        ),
        ("eu-west-101", "https://dds.eu-west-101.myhuaweicloud.eu", "https://iam.eu-west-101.myhuaweicloud.eu"),
        ("eu-de", "https://dds.eu-de.otc.t-systems.com", "https://iam.eu-de.otc.t-systems.com"),
        (
            "eu-west-0",
            "https://dds.eu-west-0.prod-cloud-ocb.orange-business.com",
            "https://iam.eu-west-0.prod-cloud-ocb.orange-business.com",
        ),
    ],
)
def test_a_region_has_the_endpoints_of_its_cloud(region: str, dds: str, iam: str) -> None:
    assert endpoints(region) == Endpoints(dds=dds, iam=iam)


def test_an_unknown_region_has_none() -> None:
    assert endpoints("mars-north-1") is None


def test_every_known_region_stands_in_both_of_its_hosts() -> None:
    odd = [
        region
        for region in regions()
        if (found := endpoints(region)) is None
        or not re.fullmatch(rf"https://dds\.{region}\.[a-z.-]+", found.dds)
        or found.iam != found.dds.replace("//dds.", "//iam.")
    ]
    assert odd == []


def test_the_public_clouds_regions_are_all_there() -> None:
    assert len([region for region in regions() if ".myhuaweicloud." in str(endpoints(region))]) == 33
