from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ProbeRequest(_message.Message):
    __slots__ = ("index", "payload", "replies", "delay_ms")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    index: int
    payload: bytes
    replies: int
    delay_ms: int
    def __init__(self, index: _Optional[int] = ..., payload: _Optional[bytes] = ..., replies: _Optional[int] = ..., delay_ms: _Optional[int] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("index", "count", "indexes", "digest")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    index: int
    count: int
    indexes: _containers.RepeatedScalarFieldContainer[int]
    digest: bytes
    def __init__(self, index: _Optional[int] = ..., count: _Optional[int] = ..., indexes: _Optional[_Iterable[int]] = ..., digest: _Optional[bytes] = ...) -> None: ...
