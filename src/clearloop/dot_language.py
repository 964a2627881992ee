"""Reads DOT, the language of Graphviz, as far as small figures use it: statements, attributes, chains, groups."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

from clearloop.errors import ConfigError

Attributes = dict[str, str]

MOST_NESTED = 50
KEYWORDS = ("node", "edge", "graph", "digraph", "subgraph", "strict")

_TOKEN = re.compile(
    r"""
    (?P<skip>   \s+ | //[^\n]* | /\*.*?\*/ | ^\#[^\n]* )
  | (?P<string> "(?:[^"\\]|\\.)*" )
  | (?P<html>   <(?:[^<>]|<[^<>]*>)*> )
  | (?P<mark>   -> | -- | [{}\[\];,=:+] )
  | (?P<name>   [^\W\d]\w* | -?(?:\.\d+|\d+(?:\.\d*)?) )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


@dataclass
class Source:
    """What a DOT text says: nodes in the order in which they are first named, edges, attributes of the whole graph."""

    nodes: dict[str, Attributes] = field(default_factory=dict)
    edges: list[tuple[str, str, Attributes]] = field(default_factory=list)
    attributes: Attributes = field(default_factory=dict)
    whole: bool = False  # it began with `digraph` or `graph`
    directed: bool = True


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(text: str) -> Source:
    """Read DOT, with or without `digraph {…}` around the statements.

    Subgraphs are read as groups of nodes; ports are ignored; of an HTML label the text is kept.

    Raises:
        ConfigError: it is not DOT, or not the part of it that is read here; the line is named.

    >>> parse('a -> b [label="x y"]; b [shape=box]').edges
    [('a', 'b', {'label': 'x y'})]
    """
    return _Parser(text).read()


class _Parser:
    """Recursive descent over the tokens; a group is entered by recursion, everything else is a loop."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[_Token] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self.fail(at, f"a name, a quoted text or one of -> [ ] {{ }} ; , = , got {text[at]!r}")
            if match.lastgroup != "skip":
                self.tokens.append(_Token(str(match.lastgroup), match.group(), at))
            at = match.end()
        self.tokens.append(_Token("end", "the end of the text", len(text)))
        self.position = 0
        self.source = Source()

    def fail(self, at: int, problem: str) -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        raise ConfigError(f"line {line} of the DOT text: expected {problem}; write for example 'a->b [label=\"x\"]'")

    @property
    def next(self) -> _Token:
        return self.tokens[self.position]

    @property
    def after_next(self) -> str:
        return self.tokens[self.position + 1].text if self.next.kind != "end" else ""

    def take(self, *marks: str) -> bool:
        """Step over the next token if it is one of these marks or, in any case of letters, bare words."""
        if self.next.kind in ("mark", "name") and self.next.text.lower() in marks:
            self.position += 1
            return True
        return False

    def need(self, mark: str) -> None:
        if not self.take(mark):
            self.fail(self.next.at, f"{mark!r}, got {self.next.text!r}")

    def name(self) -> str:
        token = self.next
        if token.kind not in ("name", "string", "html"):
            self.fail(token.at, f"a name, got {token.text!r}")
        self.position += 1
        if token.kind == "name":
            if token.text.lower() in KEYWORDS:
                self.fail(token.at, f'a name; {token.text} is a word of the language, so quote it as "{token.text}"')
            return token.text
        if token.kind == "html":
            return re.sub(r"<[^<>]*>", "", token.text[1:-1])
        parts = [token.text]
        while self.take("+"):
            if self.next.kind != "string":
                self.fail(self.next.at, f"a quoted text after '+', got {self.next.text!r}")
            parts.append(self.next.text)
            self.position += 1
        return "".join(part[1:-1] for part in parts).replace("\\\n", "").replace('\\"', '"')

    def read(self) -> Source:
        strict = self.take("strict")
        if self.next.text.lower() in ("digraph", "graph") and self.after_next not in ("[", "="):
            self.source.directed = self.next.text.lower() == "digraph"
            self.source.whole = True
            self.position += 1
            if self.next.text != "{":
                self.name()
            self.need("{")
            self.statements("}", {}, {}, 0)
        elif strict:
            self.fail(self.next.at, "'digraph' or 'graph' after 'strict'")
        else:
            self.statements("the end of the text", {}, {}, 0)
        if self.next.kind != "end":
            self.fail(self.next.at, f"nothing after the last '}}', got {self.next.text!r}")
        return self.source

    def statements(self, end: str, node: Attributes, edge: Attributes, depth: int) -> list[str]:
        """Read up to `end`; `node` and `edge` are the defaults that hold here. Returns the nodes that were named."""
        if depth > MOST_NESTED:
            self.fail(self.next.at, f"at most {MOST_NESTED} groups in one another")
        named: list[str] = []
        while not (self.next.text == end and self.next.kind in ("mark", "end")):
            if self.take(";", ","):
                continue
            following = self.after_next
            word = self.next.text.lower() if self.next.kind == "name" else ""
            if word in ("node", "edge", "graph") and following == "[":
                self.position += 1
                given = self.attributes()
                {"node": node, "edge": edge, "graph": self.source.attributes if not depth else {}}[word].update(given)
            elif following == "=" and self.next.kind != "mark":
                given = {self.name(): self.value()}
                if not depth:
                    self.source.attributes.update(given)
            else:
                named += self.chain(node, edge, depth)
        if end == "}":
            self.position += 1
        return named

    def value(self) -> str:
        self.need("=")
        return self.name()

    def attributes(self) -> Attributes:
        """All of `[a=b c="d", e]` that follow: a name alone is `true`."""
        found: Attributes = {}
        while self.take("["):
            while not self.take("]"):
                key = self.name()
                found[key] = self.value() if self.next.text == "=" else "true"
                self.take(",", ";")
        return found

    def chain(self, node: Attributes, edge: Attributes, depth: int) -> list[str]:
        """One statement of nodes: `a`, `a [..]`, `a->b->c [..]`, `{a b}->c`."""
        groups = [self.group(node, edge, depth)]
        while self.take("->", "--"):
            groups.append(self.group(node, edge, depth))
        given = self.attributes()
        if len(groups) == 1:
            for name in groups[0]:
                self.source.nodes[name].update(given)
        for tails, heads in pairwise(groups):
            self.source.edges += [(tail, head, edge | given) for tail in tails for head in heads]
        return [name for group in groups for name in group]

    def group(self, node: Attributes, edge: Attributes, depth: int) -> list[str]:
        """A node, or the nodes of a subgraph."""
        if self.take("subgraph") and self.next.text != "{":
            self.name()
        if self.take("{"):
            return list(dict.fromkeys(self.statements("}", dict(node), dict(edge), depth + 1)))
        name = self.name()
        while self.take(":"):  # a port: where on the node an edge ends
            self.name()
        self.source.nodes.setdefault(name, dict(node))
        return [name]
