"""Amazon Bedrock: its requests and answers, its event stream, its credentials, and boto3 kept off the event loop."""
