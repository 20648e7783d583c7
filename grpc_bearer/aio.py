"""The ways to attach a token to asyncio calls, under the same names as the sync ones."""

from grpc_bearer._calls.aio_channel import Channel, insecure_channel, intercept_channel, secure_channel
from grpc_bearer._calls.aio_interceptor import interceptors

__all__ = ["Channel", "insecure_channel", "intercept_channel", "interceptors", "secure_channel"]
