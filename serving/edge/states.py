"""The states of a client's connection, and what leads from one to the next. `serving.edge.connection` takes the steps.

| state | what happens | next |
| --- | --- | --- |
| IDLE | the first byte of a head | HEAD |
| HEAD | the head is whole, and so is the body | HANDLING |
| HEAD | the head is whole, the route takes the body that is to come | BODY |
| HEAD | the head is whole, and refused | *answered* |
| HEAD | the head is whole, the route takes no body whatever there is | HANDLING |
| HEAD | the head is whole, all places are taken, and it is no probe's | WAITING |
| WAITING | a place is free | as from HEAD |
| WAITING | no place was free for PLACE_SECONDS | LINGERING |
| BODY | the last byte of the body | HANDLING |
| HANDLING | the handler returned the response, or gave it by `respond` | *answered* |
| HANDLING | the handler returned a coroutine or nothing | ANSWERING |
| ANSWERING | `respond` | *answered* |
| DROPPING | the last byte of the body | IDLE |
| HEAD, BODY, DROPPING | it is no HTTP, too large or too slow, or gives way | LINGERING |
| IDLE | no request for long, its place is needed, or the service ends | CLOSING |
| LINGERING | LINGER_SECONDS, or the client closes | CLOSING |
| any | the connection is lost | CLOSING |

*answered* leads to IDLE, to DROPPING where a part of the body is still to come, and, where it was the last answer
of the connection, to CLOSING or (a part of the body is still to come) LINGERING.
"""

from enum import Enum


class State(Enum):
    """Where a connection stands; the table above says how it moves on."""

    IDLE = "between two requests, or before the first"
    HEAD = "a request's head has begun to arrive"
    WAITING = "a request's head has arrived, and the connection waits for a place"
    BODY = "a request's body arrives"
    HANDLING = "the request's handler is being called"
    ANSWERING = "the answer is made elsewhere, and comes later"
    DROPPING = "answered; the rest of the request's body arrives and is dropped"
    LINGERING = "the last answer is written and this side is closed; what arrives is dropped unread"
    CLOSING = "the transport closes, and nothing matters any more"

    # Enum's own hash is a function in Python, and a state is looked up in a set twice a read.
    __hash__ = object.__hash__


# By names of their own: to look one up in the class takes eight times as long, and a request passes eight states.
IDLE, HEAD, WAITING, BODY, HANDLING, ANSWERING, DROPPING, LINGERING, CLOSING = State

OVER = frozenset((LINGERING, CLOSING))  # what still arrives means nothing, and no answer is due
DUE = frozenset((WAITING, HANDLING, ANSWERING))  # an answer is due before anything else is read
