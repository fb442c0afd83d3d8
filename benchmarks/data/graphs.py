"""Graphs of workflows, as an editor stores them: nodes with prompts and positions, and edges between them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from random import Random

    from tidegate.benchmarks.data.prose import Prose

LEAST_GRAPH_BYTES: Final = 2_000
MOST_GRAPH_BYTES: Final = 60_000
_LARGEST_NODE_BYTES: Final = 3_500
_TYPES: Final = (
    *("llm", "llm", "llm", "code", "knowledge-retrieval", "http-request", "if-else", "template-transform"),
    *("variable-aggregator", "question-classifier", "parameter-extractor", "tool", "iteration"),
)


@dataclass(frozen=True, slots=True)
class GraphNode:
    """What each execution of a node repeats of the node."""

    id: str
    type: str
    title: str


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph: its JSON, 2 to 60 kB, and its nodes."""

    text: str
    nodes: tuple[GraphNode, ...]


def make_graph(rng: Random, prose: Prose, target_bytes: int) -> Graph:
    """Make a graph of about *target_bytes* bytes, but of 2,000 at least and 60,000 at most."""
    most = MOST_GRAPH_BYTES - _LARGEST_NODE_BYTES
    target = min(max(target_bytes, LEAST_GRAPH_BYTES + 200), most)
    nodes = [_node(rng, prose, "start", 0, 300)]
    edges: list[dict[str, Any]] = []
    size = _size(nodes[0]) * 2
    while size < target:
        kind = rng.choice(_TYPES)
        added = _node(rng, prose, kind, len(nodes), min(rng.randint(120, 1_600), max(80, target - size - 900)))
        edges.append(_edge(nodes[rng.randrange(max(0, len(nodes) - 3), len(nodes))], added))
        nodes.append(added)
        size += _size(added) + _size(edges[-1])
    nodes.append(_node(rng, prose, "end", len(nodes), 100))
    edges.append(_edge(nodes[-2], nodes[-1]))
    document = {"nodes": nodes, "edges": edges, "viewport": {"x": -rng.random() * 500, "y": 88.5, "zoom": 0.7}}
    text = json.dumps(document, ensure_ascii=False)
    return Graph(text, tuple(GraphNode(n["id"], n["data"]["type"], n["data"]["title"]) for n in nodes))


def _node(rng: Random, prose: Prose, kind: str, number: int, prompt_characters: int) -> dict[str, Any]:
    node_id = str(1_720_000_000_000 + rng.randrange(10**10))
    position = {"x": 80 + 304 * number, "y": rng.randrange(-400, 400)}
    data: dict[str, Any] = {
        "type": kind,
        "title": f"{kind.replace('-', ' ').title()} {number}",
        "desc": prose.cut(rng, 40),
        "selected": False,
        "variables": [
            {"variable": f"arg{i}", "value_selector": [node_id, "text"], "value_type": "string"}
            for i in range(rng.randint(0, 3))
        ],
    }
    return {
        "id": node_id,
        "type": "custom",
        "data": data | _body(rng, prose, kind, prompt_characters),
        "position": position,
        "positionAbsolute": position,
        "width": 244,
        "height": rng.choice((54, 90, 98, 118)),
        "sourcePosition": "right",
        "targetPosition": "left",
    }


def _body(rng: Random, prose: Prose, kind: str, characters: int) -> dict[str, Any]:
    text = prose.cut(rng, characters)
    if kind == "llm":
        return {
            "model": {
                "provider": "langgenius/openai/openai",
                "name": rng.choice(("gpt-4o", "gpt-4o-mini")),
                "mode": "chat",
                "completion_params": {"temperature": 0.7},
            },
            "prompt_template": [{"role": "system", "text": text}, {"role": "user", "text": "{{#sys.query#}}"}],
            "context": {"enabled": False, "variable_selector": []},
            "vision": {"enabled": False},
        }
    if kind == "code":
        return {
            "code_language": "python3",
            "code": f'def main(arg0: str) -> dict:\n    """{text}"""\n    return {{}}\n',
        }
    return {"template": text, "error_strategy": "fail-branch", "retry_config": {"max_retries": 3, "enabled": False}}


def _edge(source: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{source['id']}-source-{target['id']}-target",
        "type": "custom",
        "source": source["id"],
        "sourceHandle": "source",
        "target": target["id"],
        "targetHandle": "target",
        "data": {"sourceType": source["data"]["type"], "targetType": target["data"]["type"], "isInIteration": False},
        "zIndex": 0,
    }


def _size(part: dict[str, Any]) -> int:
    return len(json.dumps(part, ensure_ascii=False).encode())
