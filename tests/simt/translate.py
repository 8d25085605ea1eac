"""Turn CUDA C++ into C++ that g++ builds against simt.h: launches and __shared__ variables are rewritten, in place.

Comments go, line numbers stay. A form that is not recognised stays as it is, and does not compile.
"""

import re
import sys

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.DOTALL)
_SHARED = re.compile(
    r"(?P<extern>extern\s+)?__shared__\s+(?P<align>(?:__align__|alignas)\([^()]*\)\s*)?"
    r"(?P<type>[\w:][\w:<>,\s]*?)\s+(?P<name>\w+)\s*(?P<extents>(?:\[[^\]]*\]\s*)*);"
)
_OPENING = {")": "(", "]": "[", ">": "<"}


def translate(source, path):
    """Return the translation of `source`; errors and debug information will name `path`."""
    source = _COMMENT_OR_STRING.sub(_without_comment, source)
    return f'#line 1 "{path}"\n' + _launches(_SHARED.sub(_shared, source))


def _without_comment(match):
    text = match[0]
    return text if text[0] in "\"'" else " " + "\n" * text.count("\n")


def _shared(match):
    type_, name, align = match["type"], match["name"], match["align"] or ""
    lines = "\n" * match[0].count("\n")
    if match["extern"]:
        return f"{type_}* {name} = static_cast<{type_}*>(simt::dynamic_shared_storage());{lines}"
    key = "[] { static char key; return &key; }()"
    extents = " ".join(match["extents"].split())
    storage = f"struct simt_{name} {{ {align}{type_} v{extents}; }};"
    return f'{storage} auto& {name} = simt::shared<simt_{name}>({key}, "{name}").v;{lines}'


def _launches(source):
    """Rewrite kernel<<<configuration>>> as simt::launcher(kernel, "kernel", configuration)."""
    done = ""
    while "<<<" in source:
        before, rest = source.split("<<<", 1)
        if ">>>" not in rest:
            break
        start = _start_of_expression(before)
        configuration, source = rest.split(">>>", 1)
        name = " ".join(before[start:].split())
        done += f'{before[:start]}simt::launcher({before[start:]}, "{name}", {configuration})'
    return done + source


def _start_of_expression(text):
    """Return where the name (with its template arguments, calls or subscripts) at the end of `text` starts."""
    end = len(text.rstrip())
    closed = []  # brackets of the name that are still to be opened, going left
    while end and (closed or re.match(r"[\w:.)>\]]", text[end - 1])):
        end -= 1
        character = text[end]
        inside_angles = not closed or closed[-1] == ">"
        if character in ")]" or (character == ">" and inside_angles):
            closed.append(character)
        elif closed and character == _OPENING[closed[-1]]:
            closed.pop()
    return end


if __name__ == "__main__":
    for file in sys.argv[1:]:
        with open(file) as stream:
            sys.stdout.write(translate(stream.read(), file))
