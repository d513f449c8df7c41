"""Where the clouds built on Huawei Cloud have their services, by the region's name. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The services of one region.

    Attributes:
        dds: Base URL of DDS.
        iam: Base URL of the identity service.
    """

    dds: str
    iam: str


# The public cloud, from the vendor's SDK (huaweicloudsdkdds 3.1.219, dds_region.py); eu-west-0 is Orange's, below.
_PUBLIC = (
    *("cn-north-1", "cn-north-2", "cn-north-4", "cn-north-9", "cn-north-11", "cn-north-12"),
    *("cn-east-2", "cn-east-3", "cn-east-4", "cn-east-5"),
    *("cn-south-1", "cn-south-2", "cn-south-4", "cn-southwest-2", "cn-southwest-3"),
    *("ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4", "ap-southeast-5"),
    *("af-south-1", "af-north-1", "la-south-2", "la-north-2", "na-mexico-1", "sa-brazil-1"),
    *("me-east-1", "tr-west-1", "ae-ad-1", "my-kualalumpur-1", "ru-moscow-1", "ru-northwest-2"),
)
# Clouds with domains of their own; {} is where the service's name goes.
_OTHERS = {
    # The European public cloud. The SDK's table of IAM endpoints has no entry for it, and falls back to the wrong one.
    "eu-west-101": "https://{}.eu-west-101.myhuaweicloud.eu",
    # Open Telekom Cloud (T Cloud Public), from its documents' "Regions and Endpoints".
    "eu-de": "https://{}.eu-de.otc.t-systems.com",
    # Orange's Flexible Engine.
    "eu-west-0": "https://{}.eu-west-0.prod-cloud-ocb.orange-business.com",
    # Vodafone Turkey. Inferred: documented is the object store's host, obs.tr-central-201.hc.vodafone.com.tr.
    "tr-central-201": "https://{}.tr-central-201.hc.vodafone.com.tr",
}
_FORMS = {**{region: f"https://{{}}.{region}.myhuaweicloud.com" for region in _PUBLIC}, **_OTHERS}


def regions() -> tuple[str, ...]:
    """Return every region that is known by name."""
    return tuple(sorted(_FORMS))


def endpoints(region: str) -> Endpoints | None:
    """Return a region's services; None for one that is not known: its endpoints have to be named then."""
    form = _FORMS.get(region)
    return Endpoints(dds=form.format("dds"), iam=form.format("iam")) if form else None
