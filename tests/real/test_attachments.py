"""Images and files that come with a prompt, with the real CLIs: what the provider gets."""

import base64
import json

import pytest

from tests.real.workplace import RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def test_an_image_and_a_file_reach_the_provider(place: Workplace, tool: RealTool) -> None:
    """Their content does, as it was at the call, wherever they are; codex takes images alone."""
    image, note = place.base / "-a, b\n.txt", place.base / "a note.md"
    image.write_bytes(base64.b64decode(PNG))
    note.write_text("The secret word is mango.")
    words = ["--image", str(image)] + ([] if tool.name == "codex" else ["--file", str(note)])
    result = place.run(tool, "what is it?", *words)
    (request,) = place.asked("what is it?")[:1] or [place.provider.requests[-1]]
    sent = json.dumps(request.body)
    assert PNG in sent
    assert ("mango" in sent or base64.b64encode(note.read_bytes()).decode() in sent) is (tool.name != "codex")
    (started,) = place.events(result["session_id"], "run_started")
    assert [each["media_type"] for each in started["attachments"]][:1] == ["image/png"]
    assert place.events(result["session_id"], "permission") == []
