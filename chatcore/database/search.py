"""The search over conversations, whatever the database is."""

import peewee

from chatcore.database.tables import Conversation, Message, bound, without_nul

_SPOKEN = ("user", "assistant")


def found(owner: str, text: str) -> peewee.Expression:
    """The condition under which a saved conversation of somebody is found by `text`.

    That is, when the text stands in the title or in the first message of the user, letter for letter but without
    regard to ASCII case; or when all its words, or beginnings of words, stand in the title or in any one message of
    the user or a model. The words come from an index, which knows no words in scripts without spaces between them: a
    text that is not ASCII is looked for letter for letter in all these messages. No character of it has a special
    meaning.
    """
    text = without_nul(text)
    mine = (Conversation.owner == owner) & Conversation.saved
    said = Message.select(Message.conversation).join(Conversation).where(mine, Message.role.in_(_SPOKEN))
    if text.isascii():
        firsts = (
            Message.select(peewee.fn.MIN(Message.id))
            .join(Conversation)
            .where(mine, Message.role == "user")
            .group_by(Message.conversation)
        )
        said = Message.select(Message.conversation).where(Message.id.in_(firsts))
    condition = Conversation.title.contains(text) | Conversation.key.in_(said.where(Message.text.contains(text)))
    if (titles := bound.matching("conversation", text)) and (messages := bound.matching("message", text)):
        indexed = Message.select(Message.conversation).where(Message.id.in_(messages))
        condition |= Conversation.key.in_(titles) | Conversation.key.in_(indexed)
    return condition
