"""Changes of valid inputs: of their bytes, of their JSON values, and of the parts of an ONNX file.

All draw from a `random.Random`, which may be one of hypothesis: then it makes what fails smaller.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto

Seeds = Sequence[bytes]
Mutation = Callable[[Random, Seeds], bytes]
"""Makes an input of the seeds, which are valid ones."""

NUMBERS: tuple[Any, ...] = (
    *(0, -0.0, 1, -1, 0.5, 1e-9, 5e-324, 1e38, -1e38, 1e308, 255, 256, 2**31, -(2**31), 2**53 + 1, 2**63, 2**64),
    *(10**30, 10**400, float("nan"), float("inf"), -float("inf")),
)
TEXTS = (
    *("", " ", "0", "1e999", "nan", "sky", "__image__", "../../x", "/etc/passwd", "a" * 300, "\x00", "\x1b[31m\n"),
    *("\u2028", "\ud800", "\u202e", "é" * 120, "None", "true", "-1", "%s%n{0}", "1" * 5000),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [[[[[[]]]]]], {"": None}, [None] * 300)
_TOKENS = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\n",
    ),
    *(b"null", b"NaN", b"-Infinity", b"1e999", b"-", b"[" * 2000, b'{"a":' * 2000, b"9" * 5000, b"\xc3\x28", b"/*"),
)


def of_bytes(random: Random, seeds: Seeds) -> bytes:
    """One to eight changes of the bytes of a seed, most of them near its beginning or end, where formats keep heads."""
    data = bytearray(random.choice(seeds))
    for _ in range(_few(random, 8)):
        start = _position(random, len(data))
        end = min(len(data), start + random.choice((1, 1, 4, 8, 64)))
        kind = random.randrange(7)
        if kind == 0 and start < len(data):
            data[start] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[start:end] = random.randbytes(end - start)
        elif kind == 2:
            del data[start:end]
        elif kind == 3:
            data[start:start] = random.choice(_TOKENS)
        elif kind == 4:
            data[start:start] = data[start:end] * random.choice((1, 2, 100))
        elif kind == 5:
            other = random.choice(seeds)
            cut = _position(random, len(other))
            data[start:end] = other[cut : cut + random.choice((1, 16, 256))]
        else:
            del data[start:]
    return bytes(data)


def _few(random: Random, most: int) -> int:
    """A number of changes, more often one: what is changed in many places is refused for the first of them."""
    return 1 if random.randrange(2) else random.randint(1, most)


def _position(random: Random, length: int) -> int:
    near = min(length, 2048)
    where = random.randrange(4)
    return random.randint(0, near) if where < 2 else length - near if where == 2 else random.randint(0, length)


def of_json(random: Random, seeds: Seeds) -> bytes:
    """One to four changes of the JSON value of a seed, or of its first line where each is one."""
    seed = random.choice(seeds)
    value = json.loads(seed.partition(b"\n")[0] if seed.count(b"\n{") else seed)
    for _ in range(_few(random, 4)):
        value = _changed(random, value)
    return json.dumps(value).encode()


def _changed(random: Random, value: Any) -> Any:
    """A JSON value of which one part is another, is gone or stands twice."""
    nodes = [(parent, key) for parent, key in _parts(value)]
    if not nodes or random.randrange(50) == 0:
        return _any(random, value)
    parent, key = random.choice(nodes)
    kind = random.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(random.choice(parent)))
    elif kind == 1:
        parent[random.choice(TEXTS)] = parent[key]
    elif kind == 2:
        parent[key] = copy.deepcopy(_at(random.choice(nodes)))
    elif kind == 3 and isinstance(parent, dict):
        name = random.choice(list(parent))
        parent[name] = parent.pop(key)
    else:
        parent[key] = _any(random, parent[key])
    return value


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """The places in a JSON value: each container that holds another value, and its key there."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        parent = waiting.pop()
        keys: Any = (
            parent.keys() if isinstance(parent, dict) else range(len(parent)) if isinstance(parent, list) else ()
        )
        for key in list(keys)[:64]:
            found.append((parent, key))
            waiting.append(parent[key])
    return found


def _at(node: tuple[Any, Any]) -> Any:
    return node[0][node[1]]


def _any(random: Random, value: Any) -> Any:
    """Another value, more often of the same kind."""
    if isinstance(value, int | float) and random.randrange(3):
        return random.choice((value + 1, -value, value * 2, random.choice(NUMBERS)))
    if isinstance(value, str) and random.randrange(3):
        return random.choice((value[:-1], value * 2, value.upper(), random.choice(TEXTS)))
    return copy.deepcopy(random.choice((random.choice(NUMBERS), random.choice(TEXTS), random.choice(OTHERS))))


def either(*mutations: Mutation) -> Mutation:
    """One of several mutations each time."""
    return lambda random, seeds: random.choice(mutations)(random, seeds)


def of_safetensors(random: Random, seeds: Seeds) -> bytes:
    """A change of the JSON header of a safetensors file, texts in it that hold JSON included."""
    data = random.choice(seeds)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    metadata = header["__metadata__"]
    key = random.choice(sorted(metadata))
    if random.randrange(2) and metadata[key][:1] in ("{", "["):
        metadata[key] = of_json(random, [metadata[key].encode()]).decode()
        changed = json.dumps(header).encode()
    else:
        changed = of_json(random, [data[8:end]])
    return len(changed).to_bytes(8, "little") + changed + data[end:]


def of_onnx(random: Random, seeds: Seeds) -> bytes:
    """One to three changes of the parts of an ONNX model: nodes, initializers, inputs, outputs, metadata, opsets."""
    from onnx import ModelProto

    model = ModelProto.FromString(random.choice(seeds))
    for _ in range(_few(random, 3)):
        random.choice(_ONNX_CHANGES)(random, model)
    return model.SerializeToString()


_OPS = ("Identity", "Reshape", "MatMul", "Conv", "Loop", "NoSuchOp", "Expand", "Tile", "ConstantOfShape", "Range", "")
_DIMENSIONS = (0, -1, 1, 2, 7, 2**20, 2**31, 2**40, 2**62, -(2**63))


def _change_node(random: Random, model: ModelProto) -> None:
    node = random.choice(model.graph.node)
    kind = random.randrange(5)
    if kind == 0:
        node.op_type = random.choice(_OPS)
    elif kind == 1:
        node.domain = random.choice(("", "ai.onnx.ml", "com.microsoft", "evil.example"))
    elif kind == 2 and node.input:
        node.input[random.randrange(len(node.input))] = random.choice(random.choice(model.graph.node).output)
    elif kind == 3:
        model.graph.node.remove(node)
    else:
        _change_attribute(random, node)


def _change_attribute(random: Random, node: Any) -> None:
    if not node.attribute:
        return
    attribute = random.choice(node.attribute)
    if attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice(_DIMENSIONS)
    else:
        attribute.i = random.choice(_DIMENSIONS)


def _change_initializer(random: Random, model: ModelProto) -> None:
    from onnx import TensorProto

    tensor = random.choice(model.graph.initializer)
    kind = random.randrange(5)
    if kind == 0 and tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(_DIMENSIONS)
    elif kind == 1:
        tensor.data_type = random.randrange(0, 24)
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
    elif kind == 3:
        size = min(len(tensor.raw_data), 64)
        tensor.raw_data = random.choice((b"\xff", b"\x00", b"\x00\x00\xc0\x7f")) * size + tensor.raw_data[size:]
    else:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=random.choice(("/etc/passwd", "../../x", "/dev/zero", "model")))


def _change_signature(random: Random, model: ModelProto) -> None:
    value = random.choice([*model.graph.input, *model.graph.output])
    kind = random.randrange(3)
    if kind == 0:
        value.name = random.choice(("labels", "boxes", "image", "", "x"))
    elif kind == 1:
        value.type.tensor_type.elem_type = random.randrange(0, 24)
    elif value.type.tensor_type.shape.dim:
        random.choice(value.type.tensor_type.shape.dim).dim_value = random.choice(_DIMENSIONS)


def _change_metadata(random: Random, model: ModelProto) -> None:
    kind = random.randrange(3)
    entry = random.choice(model.metadata_props) if model.metadata_props else model.metadata_props.add()
    if kind == 0:
        model.opset_import[0].version = random.choice((0, 1, 9, 18, 99, 2**62))
    elif kind == 1 and entry.value[:1] == "{":
        entry.value = of_json(random, [entry.value.encode()]).decode()
    else:
        model.metadata_props.remove(entry)


_ONNX_CHANGES = (_change_node, _change_node, _change_initializer, _change_signature, _change_metadata)
