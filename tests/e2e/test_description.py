# SPDX-License-Identifier: Apache-2.0
"""The API's description: sound in itself, served as it is, and true of every operation's rights."""
import json
import re

import jsonschema
import pytest
import yaml

import description
from description import DOC, OPERATIONS


def sample_path(op):
    return re.sub(r"\{\w+\}", "none", op.template)


def sample(op):
    """A request of the right form, where a small one can be made."""
    body = {} if "requestBody" in op.node else None
    return op.method.upper(), sample_path(op), body


def refs(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from refs(value)


def test_every_reference_leads_somewhere_and_every_schema_is_one():
    for ref in refs(DOC):
        description._resolve({"$ref": ref})
    for name, schema in DOC["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for required in schema.get("required", []):
            assert required in schema["properties"], f"{name} requires {required}, which it does not name"


def test_every_operation_says_what_it_is_and_what_it_needs():
    ids = [op.node["operationId"] for op in OPERATIONS]
    assert len(ids) == len(set(ids))
    for op in OPERATIONS:
        assert op.status in ("implemented", "planned")
        assert op.public != bool(op.scope), op
        declared = {description._resolve(p)["name"] for p in DOC["paths"][op.template].get("parameters", [])}
        assert declared == set(re.findall(r"\{(\w+)\}", op.template)), op
        assert (op.status == "planned") == ("501" in op.node["responses"]) or op.codes(501), op
        for status in op.node["x-hypeman-codes"] if "x-hypeman-codes" in op.node else ():
            assert status in op.node["responses"], f"{op} has codes for {status}, which it does not describe"


def test_it_is_served_as_it_is(daemon):
    tcp = daemon.tcp()  # without a token
    assert tcp.request("GET", "/spec.yaml").body == description.FILE.read_bytes()
    assert tcp.get("/spec.json") == json.loads(json.dumps(yaml.safe_load(description.FILE.read_text())))
    assert tcp.get("/health") == {"status": "ok"}


@pytest.mark.parametrize("op", [op for op in OPERATIONS if not op.public], ids=repr)
def test_without_a_token_it_is_401(daemon, op):
    daemon.tcp().fails(401, "Unauthorized", *sample(op))


@pytest.fixture(scope="module")
def all_but(daemon):
    """A token with every scope but one; "*" asks for all of them."""
    kinds = ("instance", "image", "volume", "snapshot", "build", "device", "ingress")
    scopes = {f"{kind}:{right}" for kind in kinds for right in ("read", "write", "delete")} | {"resource:read"}
    made = {}

    def make(scope):
        if scope not in made:
            made[scope] = daemon.token(*sorted(scopes - {"resource:read" if scope == "*" else scope}))
        return made[scope]

    return make


@pytest.mark.parametrize("op", [op for op in OPERATIONS if not op.public], ids=repr)
def test_without_its_scope_it_is_403(daemon, all_but, op):
    refusal = daemon.tcp(all_but(op.scope)).fails(403, "Forbidden", *sample(op))
    assert op.scope in refusal["message"]


@pytest.fixture(scope="module")
def kept(daemon):
    """A VM, so that what is asked of it is not refused for want of one."""
    made = daemon.api.create("exit 0", name="none")
    daemon.api.wait("none", "Stopped")
    daemon.mark(made["id"])


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op.status == "planned"], ids=repr)
def test_what_is_planned_is_501(api, kept, op):
    api.fails(501, "not_implemented", *sample(op))


def test_an_unknown_path_or_method_is_refused(api):
    api.fails(404, None, "GET", "/nothing")
    api.fails(404, None, "GET", "/instances/a/b/c/d")
    assert api.request("PUT", "/instances").status in (404, 405)
