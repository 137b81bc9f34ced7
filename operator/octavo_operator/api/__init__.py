"""The types that others see: LLMService, its status and conditions, names, labels, kinds. The CRD is generated from them."""
