"""Turn CUDA C++ into C++ that g++ builds against simt.h: launches and __shared__ variables are rewritten, in place.

Comments go, line numbers stay. A form that is not recognised stays as it is, and does not compile.
"""

import re

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.DOTALL)
_SHARED = re.compile(
    r"(?P<extern>extern\s+)?__shared__\s+(?P<align>(?:__align__|alignas)\([^()]*\)\s*)?"
    r"(?P<type>[\w:][\w:<>,\s]*?)\s+(?P<name>\w+)\s*(?P<extents>(?:\[[^\]]*\]\s*)*);"
)
# The kernel is a name, with template arguments that may have one level of brackets.
_LAUNCH = re.compile(
    r"(?P<kernel>[\w:]+(?:<(?:[^<>(){};]|\([^()]*\)|<[^<>(){};]*>)*>)?\s*)<<<(?P<configuration>.*?)>>>", re.DOTALL
)


def translate(source, path):
    """Return the translation of `source`; errors and debug information will name `path`."""
    source = _COMMENT_OR_STRING.sub(_without_comment, source)
    return f'#line 1 "{path}"\n' + _LAUNCH.sub(_launch, _SHARED.sub(_shared, source))


def _without_comment(match):
    text = match[0]
    return text if text[0] in "\"'" else " " + "\n" * text.count("\n")


def _shared(match):
    type_, name, align = match["type"], match["name"], match["align"] or ""
    lines = "\n" * match[0].count("\n")
    if match["extern"]:
        return f"{type_}* {name} = static_cast<{type_}*>(simt::dynamic_shared_storage());{lines}"
    storage = f"struct simt_{name} {{ {align}{type_} v{' '.join(match['extents'].split())}; }};"
    key = "[] { static char key; return &key; }()"
    memory = f'simt::shared_storage({key}, sizeof(simt_{name}), alignof(simt_{name}), "{name}")'
    return f"{storage} auto& {name} = static_cast<simt_{name}*>({memory})->v;{lines}"


def _launch(match):
    name = " ".join(match["kernel"].split())
    return f'simt::launcher({match["kernel"]}, "{name}", {match["configuration"]})'
