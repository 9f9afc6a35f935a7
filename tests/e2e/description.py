# SPDX-License-Identifier: Apache-2.0
"""api/openapi.yaml, and whether an answer is one that it allows."""
import copy
import json
import pathlib
import re

import jsonschema
import yaml

FILE = pathlib.Path(__file__).parents[2] / "api/openapi.yaml"
DOC = yaml.safe_load(FILE.read_text())
METHODS = ("get", "put", "post", "delete", "patch")
RETRY_MATTERS = (409,)  # and 500 and above: what the clients would send again in vain


def _closed(node):
    """The same schemas, with no room for a member that they do not name."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _closed(value) for key, value in node.items()}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


_CLOSED = _closed({"components": {"schemas": copy.deepcopy(DOC["components"]["schemas"])}})
_FORMATS = jsonschema.FormatChecker(formats=())
_FORMATS.checks("date-time")(
    lambda text: not isinstance(text, str)
    or bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", text))
)


def _resolve(node):
    while "$ref" in node:
        target = DOC
        for part in node["$ref"][2:].split("/"):
            target = target[part]
        node = target
    return node


class Operation:
    def __init__(self, method, template, node):
        self.method, self.template, self.node = method, template, node
        self.status = node["x-hypeman-status"]
        self.scope = node.get("x-hypeman-scope")
        self.public = node.get("security") == []

    def __repr__(self):
        return f"{self.method.upper()} {self.template}"

    def response(self, status):
        node = self.node["responses"].get(str(status))
        return _resolve(node) if node is not None else None

    def codes(self, status):
        own = self.node.get("x-hypeman-codes", {}).get(str(status), [])
        return own + DOC["x-hypeman-codes"].get(str(status), [])


OPERATIONS = [
    Operation(method, template, node[method])
    for template, node in DOC["paths"].items()
    for method in METHODS
    if method in node
]


def operation(method, path):
    """The one that a path as sent belongs to; a literal segment goes before a parameter. None: no such."""
    segments = path.split("?")[0].split("/")
    best = None
    for op in OPERATIONS:
        parts = op.template.split("/")
        if op.method != method.lower() or len(parts) != len(segments):
            continue
        if all(part == segment or (part[0:1] == "{" and segment) for part, segment in zip(parts, segments)):
            literals = sum(part[0:1] != "{" for part in parts)
            if best is None or literals > best[0]:
                best = (literals, op)
    return best and best[1]


def check_schema(schema, value):
    validator = jsonschema.Draft202012Validator({**schema, **_CLOSED}, format_checker=_FORMATS)
    problems = [f"{'/'.join(map(str, e.absolute_path)) or '.'}: {e.message}" for e in validator.iter_errors(value)]
    assert not problems, "the answer breaks its description:\n" + "\n".join(problems) + f"\n{json.dumps(value)[:2000]}"


def check_error(status, headers, body, codes=None):
    """Any error: the contract's form, escaped, with a code that is known."""
    assert headers.get("content-type", "").split(";")[0] == "application/json", f"{status} as {headers}"
    value = json.loads(body)
    check_schema({"$ref": "#/components/schemas/Error"}, value)
    if codes is not None:
        assert value["code"] in codes, f"{status} with {value}; known are {codes}"
    if status in RETRY_MATTERS or status >= 500:
        assert headers.get("x-should-retry") in ("true", "false"), f"{status} {value} without x-should-retry"


def check_answer(method, path, status, headers, body):
    """Fails unless api/openapi.yaml allows this answer. body: bytes; None for a stream that is read elsewhere."""
    op = operation(method, path)
    if op is None:
        assert status in (401, 404, 405), f"{method} {path} is not described and answers {status}"
        check_error(status, headers, body)
        return
    if status == 431:  # of the connection, not of an operation: see info.description
        check_error(status, headers, body)
        return
    response = op.response(status)
    assert response is not None, f"{op} does not describe {status}: {body!r:.500}"
    if status >= 400:
        check_error(status, headers, body, op.codes(status))
        return
    assert op.status == "implemented", f"{op} is marked as planned and answers {status}"
    content = response.get("content")
    if not content:
        assert body == b"", f"{op} {status} has a body"
        return
    (kind, media), = content.items()
    assert headers.get("content-type", "").split(";")[0] == kind, f"{op} {status} as {headers}"
    if kind == "application/json":
        check_schema(_closed(media["schema"]), json.loads(body))


def check_event(path, data):
    """The data of one server-sent event."""
    check_schema(operation("get", path).node["x-hypeman-event"], data)
