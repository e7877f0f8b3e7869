"""Every document is valid for Kubernetes 1.32; those of cert-manager by a schema of the fields that we use."""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.unit.deploy.kubernetes.manifests import BUNDLES, KUSTOMIZE, load

KUBERNETES = "1.32"
TEXT = {"type": "string"}


def closed(required: str, optional: str = "", **properties: Any) -> dict[str, Any]:
    """Schema of an object with these properties and no others; texts are the default."""
    names = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "required": required.split(),
        "additionalProperties": False,
        "properties": {**dict.fromkeys(names, TEXT), **properties},
    }


DURATION = {"type": "string", "pattern": "^[0-9]+h$"}
USAGES = {"enum": ["digital signature", "key encipherment", "server auth", "client auth"]}
CERT_MANAGER = {
    "Issuer": closed("", selfSigned=closed(""), ca=closed("secretName")) | {"minProperties": 1, "maxProperties": 1},
    "Certificate": closed(
        "secretName issuerRef",
        "commonName",
        issuerRef=closed("kind name"),
        dnsNames={"type": "array", "items": TEXT, "minItems": 1},
        usages={"type": "array", "items": USAGES},
        isCA={"type": "boolean"},
        duration=DURATION,
        renewBefore=DURATION,
        privateKey=closed(
            "algorithm size",
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"enum": [256, 384, 521]},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
    ),
}


@pytest.mark.parametrize("bundle", [*BUNDLES, "models"])
def test_every_document_is_valid(bundle: str) -> None:
    documents = load(bundle).documents
    assert documents
    for one in documents:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_the_namespace_takes_only_pods_of_the_restricted_kind() -> None:
    namespace = yaml.safe_load((KUSTOMIZE / "namespace.yaml").read_text())
    kubernetes_validate.validate(namespace, KUBERNETES, strict=True)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_everything_goes_into_that_namespace() -> None:
    namespace = yaml.safe_load((KUSTOMIZE / "namespace.yaml").read_text())["metadata"]["name"]
    for bundle in (*BUNDLES[1:], "models", "certificates"):
        assert {one["metadata"]["namespace"] for one in load(bundle).documents} == {namespace}


def test_certificates_are_valid() -> None:
    documents = load("certificates").documents
    assert len(documents) == 6
    for one in documents:
        assert one["apiVersion"] == "cert-manager.io/v1"
        jsonschema.validate(one["spec"], CERT_MANAGER[one["kind"]])


def test_the_schemas_notice_a_misspelled_field() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [], "hostNetwrk": True}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"secretName": "x", "issuerRef": {"name": "x"}}, CERT_MANAGER["Certificate"])
