"""OpenAI's API for images, `/v1`, for the programs that know it: what they ask is asked of the farm."""
