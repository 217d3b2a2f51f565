"""client.inference: text from models, and vectors from text."""

from __future__ import annotations

import grpc

from stackmesh.client.calls import Streaming, Unary
from stackmesh.client.options import Options
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub


class Inference:
    """Each method takes the fields of its request as keywords and returns the response message.

    answer = await client.inference.chat_completion(model_id="smollm2", messages=[user("Hello!")])
    print(answer.completion_message.content.items[0].text, answer.usage.completion_tokens)
    """

    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        stub = InferenceServiceStub(channel)
        self.completion = Unary(pb.CompletionRequest, stub.Completion, options)
        """Continues a text."""
        self.stream_completion = Streaming(pb.CompletionRequest, stub.StreamCompletion, options)
        """Continues a text, as it is generated. The last message carries `stop_reason` and `usage`."""
        self.chat_completion = Unary(pb.ChatCompletionRequest, stub.ChatCompletion, options)
        """Answers a conversation."""
        self.stream_chat_completion = Streaming(pb.ChatCompletionRequest, stub.StreamChatCompletion, options)
        """Answers a conversation, as it is generated: one START event, PROGRESS events, one COMPLETE event."""
        self.embeddings = Unary(pb.EmbeddingsRequest, stub.Embeddings, options)
        """Turns texts into vectors, one each, in order."""
