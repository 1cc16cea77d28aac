"""What the plugin does in a server. `make_chat` starts one for the test; a script stands in for the model."""

from chatcore_plugin_template import Template

from chatcore.testing.scripted import ScriptedProvider, call, text


async def test_the_model_can_roll_dice(make_chat):
    """The model's call is answered, and the answer goes back to the model."""
    model = ScriptedProvider([call("plugin_template_roll_dice", count=3, sides=6)], [text("There you are.")])
    chat = await make_chat(Template, provider=model)
    reply = await chat.say("Roll three dice.")
    assert reply.text == "There you are."
    faces, total = reply.results[0].split(" = ")
    assert sum(map(int, faces.split(" + "))) == int(total)


async def test_a_setting_limits_the_throw(make_chat):
    """Above `most`, the model is told so."""
    model = ScriptedProvider([call("plugin_template_roll_dice", count=3)], [text("Sorry.")])
    chat = await make_chat(Template, provider=model, most=2)
    reply = await chat.say("Roll three dice.")
    assert "at most 2 dice" in reply.results[0]


async def test_impossible_dice_are_told_to_the_model(make_chat):
    """What the dice refuse is a failed tool, not a failed turn."""
    model = ScriptedProvider([call("plugin_template_roll_dice", sides=1)], [text("Sorry.")])
    chat = await make_chat(Template, provider=model)
    reply = await chat.say("Roll a coin.")
    assert reply.text == "Sorry."
    assert "at least two sides" in reply.results[0]
