"""Every shipped format, byte for byte: written by hand from the systems that they come from.

Each entry: one turn and two turns with the format's own system prompt, two turns with the system
prompt SYS (empty: the format refuses one), two turns without any. `<s>` and `</s>` are BOS and EOS.
"""

CURIOUS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CURIOUS_S0 = (
    "A chat between a curious user and an artificial intelligence assistant. \n"
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
HUMAN_S0 = (
    "A chat between a curious human and an artificial intelligence assistant. \n"
    "he assistant gives helpful, detailed, and polite answers to the human's questions."
)
BELOW = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request."
)
BELOW_S0 = (
    "Below is an instruction that describes a task. \nWrite a response that appropriately "
    "completes the request."
)
HONEST = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\nIf a question does not make any sense, or is not factually coherent, "
    "explain why instead of answering something not correct. If you don't know the answer to a "
    "question, please don't share false information."
)
HONEST_LINKSOUL = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe. Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature. \n  If a question does not make any sense, or is not factually "
    "coherent, explain why instead of answering something not correct. If you don't know the "
    "answer to a question, please don't share false information."
)
ORCA = (
    "You are Orca, an AI language model created by Microsoft. You are a cautious assistant. You "
    "carefully follow instructions. You are helpful and harmless and you follow ethical guidelines "
    "and promote positive behavior."
)
ZH = "You are a helpful assistant. 你是一个乐于助人的助手。"


def with_system(front: str, own: str, one: str, two: str) -> tuple[str, str, str, str]:
    """A format that writes its system prompt in front; `front` has SYS where it stands."""
    shown = front.replace("SYS", own) if own else ""
    return f"<s>{shown}{one}", f"<s>{shown}{two}", f"<s>{front}{two}", f"<s>{two}"


GOLDENS: dict[str, tuple[str, str, str, str]] = {
    "default": with_system(
        "SYS\n", CURIOUS,
        "Human: q1\nAssistant: a1</s>",
        "Human: q1\nAssistant: a1</s>\nHuman: q2\nAssistant: a2</s>",
    ),
    "default@original": with_system(
        "SYS\n", CURIOUS_S0,
        "Human: q1\nAssistant: a1</s>",
        "Human: q1\nAssistant: a1</s>\nHuman: q2\nAssistant: a2</s>",
    ),
    "vanilla": ("<s>q1a1</s>", "<s>q1a1</s>¦<s>q2a2</s>", "", "<s>q1a1</s>¦<s>q2a2</s>"),
    "alpaca": with_system(
        "SYS\n\n", BELOW,
        "### Instruction:\nq1\n\n### Response:\na1</s>",
        "### Instruction:\nq1\n\n### Response:\na1</s>\n\n"
        "### Instruction:\nq2\n\n### Response:\na2</s>",
    ),
    "alpaca@original": with_system(
        "SYS\n\n", BELOW_S0,
        "### Instruction:\nq1\n\n### Response:\na1</s>",
        "### Instruction:\nq1\n\n### Response:\na1</s>\n\n"
        "### Instruction:\nq2\n\n### Response:\na2</s>",
    ),
    "vicuna": with_system(
        "SYS ", CURIOUS,
        "USER: q1 ASSISTANT: a1</s>",
        "USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT: a2</s>",
    ),
    "vicuna@original": with_system(
        "SYS</s>", CURIOUS_S0,
        "USER: q1 ASSISTANT: a1</s>",
        "USER: q1 ASSISTANT: a1</s></s>USER: q2 ASSISTANT: a2</s>",
    ),
    "belle": with_system(
        "SYS\n\n", "",
        "Human: q1\n\nBelle: a1</s>",
        "Human: q1\n\nBelle: a1</s>\n\nHuman: q2\n\nBelle: a2</s>",
    ),
    "linly": with_system(
        "SYS\n", "",
        "User: q1\nBot: a1</s>",
        "User: q1\nBot: a1</s>\nUser: q2\nBot: a2</s>",
    ),
    "billa": with_system(
        "SYS\n", "",
        "Human: q1\nAssistant: a1</s>",
        "Human: q1\nAssistant: a1</s>\nHuman: q2\nAssistant: a2</s>",
    ),
    "ziya": with_system(
        "SYS\n", "",
        "<human>:q1\n<bot>:a1</s>",
        "<human>:q1\n<bot>:a1</s>\n<human>:q2\n<bot>:a2</s>",
    ),
    "aquila": with_system(
        "SYS###", HUMAN,
        "Human: q1###Assistant: a1</s>",
        "Human: q1###Assistant: a1</s>###Human: q2###Assistant: a2</s>",
    ),
    "aquila@original": with_system(
        "SYS###", HUMAN_S0,
        "Human: q1###Assistant:a1</s>",
        "Human: q1###Assistant:a1</s>###Human: q2###Assistant:a2</s>",
    ),
    "firefly": (
        "<s>q1</s>a1</s>",
        "<s>q1</s>a1</s><s>q2</s>a2</s>",
        "SYS<s>q1</s>a1</s><s>q2</s>a2</s>",
        "<s>q1</s>a1</s><s>q2</s>a2</s>",
    ),
    "openbuddy": with_system(
        "SYS\n", "",
        "User: q1\nAssistant:a1</s>",
        "User: q1\nAssistant:a1</s>\nUser: q2\nAssistant:a2</s>",
    ),
    "yuyan": with_system(
        "SYS\n\n", "",
        "<|Human|>:\nq1\n\n<|Yuyan|>:\na1</s>",
        "<|Human|>:\nq1\n\n<|Yuyan|>:\na1</s>\n\n<|Human|>:\nq2\n\n<|Yuyan|>:\na2</s>",
    ),
    "internlm": with_system(
        "SYS\n", "",
        "<|User|>:q1<eoh>\n<|Bot|>:a1</s>",
        "<|User|>:q1<eoh>\n<|Bot|>:a1</s>\n<|User|>:q2<eoh>\n<|Bot|>:a2</s>",
    ),
    "internlm@official": with_system(
        "SYS\n", "",
        "<|User|>:q1<eoh>\n<|Bot|>:a1<eoa>",
        "<|User|>:q1<eoh>\n<|Bot|>:a1<eoa>\n<|User|>:q2<eoh>\n<|Bot|>:a2<eoa>",
    ),
    "baichuan": with_system(
        "SYS", "",
        "<reserved_102>q1<reserved_103>a1<reserved_102>",
        "<reserved_102>q1<reserved_103>a1<reserved_102>q2<reserved_103>a2<reserved_102>",
    ),
    "baichuan@original": with_system(
        "SYS", "",
        "<reserved_102>q1<reserved_103>a1</s>",
        "<reserved_102>q1<reserved_103>a1</s><reserved_102>q2<reserved_103>a2</s>",
    ),
    "baichuan2": with_system(
        "SYS", "",
        "<reserved_106>q1<reserved_107>a1</s>",
        "<reserved_106>q1<reserved_107>a1</s><reserved_106>q2<reserved_107>a2</s>",
    ),
    "chatglm": with_system(
        "SYS\n\n", "",
        "[Round 1]\n\n问：q1\n\n答：a1</s>",
        "[Round 1]\n\n问：q1\n\n答：a1</s>\n\n[Round 2]\n\n问：q2\n\n答：a2</s>",
    ),
    "chatglm2": (
        "[gMASK]sop[Round 1]\n\n问：q1\n\n答：a1</s>",
        "[gMASK]sop[Round 1]\n\n问：q1\n\n答：a1</s>\n\n[Round 2]\n\n问：q2\n\n答：a2</s>",
        "[gMASK]sopSYS\n\n[Round 1]\n\n问：q1\n\n答：a1</s>\n\n[Round 2]\n\n问：q2\n\n答：a2</s>",
        "[gMASK]sop[Round 1]\n\n问：q1\n\n答：a1</s>\n\n[Round 2]\n\n问：q2\n\n答：a2</s>",
    ),
    "chatglm2@original": (
        "[gMASK]sop\n\n[Round 0]\n\n问：q1\n\n答：a1</s>",
        "[gMASK]sop\n\n[Round 0]\n\n问：q1\n\n答：a1</s>\n\n[Round 1]\n\n问：q2\n\n答：a2</s>",
        "[gMASK]sopSYS\n\n[Round 0]\n\n问：q1\n\n答：a1</s>\n\n[Round 1]\n\n问：q2\n\n答：a2</s>",
        "[gMASK]sop\n\n[Round 0]\n\n问：q1\n\n答：a1</s>\n\n[Round 1]\n\n问：q2\n\n答：a2</s>",
    ),
    "chatglm3": (
        "[gMASK]sop<|user|>\nq1<|assistant|>\na1<|user|>",
        "[gMASK]sop<|user|>\nq1<|assistant|>\na1<|user|>\nq2<|assistant|>\na2<|user|>",
        "[gMASK]sop<|system|>\nSYS<|user|>\nq1<|assistant|>\na1<|user|>\nq2<|assistant|>\n"
        "a2<|user|>",
        "[gMASK]sop<|user|>\nq1<|assistant|>\na1<|user|>\nq2<|assistant|>\na2<|user|>",
    ),
    "chatglm3@original": (
        "<|user|>\nq1<|assistant|>\na1</s>",
        "<|user|>\nq1<|assistant|>\na1</s><|user|>\nq2<|assistant|>\na2</s>",
        "SYS<|user|>\nq1<|assistant|>\na1</s><|user|>\nq2<|assistant|>\na2</s>",
        "<|user|>\nq1<|assistant|>\na1</s><|user|>\nq2<|assistant|>\na2</s>",
    ),
    "moss": with_system(
        "SYS\n", "",
        "<|Human|>: q1<eoh>\n<|MOSS|>:a1</s>",
        "<|Human|>: q1<eoh>\n<|MOSS|>:a1</s>\n<|Human|>: q2<eoh>\n<|MOSS|>:a2</s>",
    ),
    "rwkv": with_system(
        "SYS\n\n", "",
        "Bob: q1\n\nAlice:a1</s>",
        "Bob: q1\n\nAlice:a1</s>\n\nBob: q2\n\nAlice:a2</s>",
    ),
    "linksoul": (
        f"<s>[INST] <<SYS>>\n{HONEST_LINKSOUL}\n<</SYS>>\n\nq1 [/INST] a1</s>",
        f"<s>[INST] <<SYS>>\n{HONEST_LINKSOUL}\n<</SYS>>\n\nq1 [/INST] a1</s>"
        "<s> [INST] q2 [/INST] a2</s>",
        "<s>[INST] <<SYS>>\nSYS\n<</SYS>>\n\nq1 [/INST] a1</s><s> [INST] q2 [/INST] a2</s>",
        "<s>[INST] q1 [/INST] a1</s><s> [INST] q2 [/INST] a2</s>",
    ),
    "linksoul@original": (
        f"<s>[INST] <<SYS>>\n{HONEST_LINKSOUL}\n<</SYS>>\n\n</s><s> [INST]q1[/INST]a1</s>",
        f"<s>[INST] <<SYS>>\n{HONEST_LINKSOUL}\n<</SYS>>\n\n</s><s> [INST]q1[/INST]a1</s>"
        "</s><s> [INST]q2[/INST]a2</s>",
        "<s>[INST] <<SYS>>\nSYS\n<</SYS>>\n\n</s><s> [INST]q1[/INST]a1</s>"
        "</s><s> [INST]q2[/INST]a2</s>",
        "<s>q1[/INST]a1</s></s><s> [INST]q2[/INST]a2</s>",
    ),
    "yi": with_system(
        "<|im_start|>system\nSYS<|im_end|>\n", "",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>",
    ),
    "yi@original": with_system(
        "<|im_start|>system\nSYS<|im_end|>\n", "",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1</s>",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1</s><|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2</s>",
    ),
    "xverse": with_system(
        "SYS\n\n", "",
        "Human: q1\n\nAssistant: a1</s>",
        "Human: q1\n\nAssistant: a1</s>\n\nHuman: q2\n\nAssistant: a2</s>",
    ),
    "tigerbot": with_system(
        "SYS", "",
        "\n\n### Instruction:\nq1\n\n### Response:\na1</s>",
        "\n\n### Instruction:\nq1\n\n### Response:\na1</s>"
        "\n\n### Instruction:\nq2\n\n### Response:\na2</s>",
    ),
    "tigerbot@original": with_system(
        "SYS\n\n", "",
        "Instruction:\nq1\n\n### Response:\na1</s>",
        "Instruction:\nq1\n\n### Response:\na1</s>\n\nInstruction:\nq2\n\n### Response:\na2</s>",
    ),
    "flagalpha": (
        "<s>Human:q1\n</s><s>Assistant: a1</s>",
        "<s>Human:q1\n</s><s>Assistant: a1</s><s>Human:q2\n</s><s>Assistant: a2</s>",
        "SYS<s>Human:q1\n</s><s>Assistant: a1</s><s>Human:q2\n</s><s>Assistant: a2</s>",
        "<s>Human:q1\n</s><s>Assistant: a1</s><s>Human:q2\n</s><s>Assistant: a2</s>",
    ),
    "flagalpha@official": (
        "<s>Human: q1\n</s><s>Assistant: a1</s>",
        "<s>Human: q1\n</s><s>Assistant: a1</s><s>Human: q2\n</s><s>Assistant: a2</s>",
        "SYS<s>Human: q1\n</s><s>Assistant: a1</s><s>Human: q2\n</s><s>Assistant: a2</s>",
        "<s>Human: q1\n</s><s>Assistant: a1</s><s>Human: q2\n</s><s>Assistant: a2</s>",
    ),
    "flagalpha@original": (
        "<s>Human:q1\n<\\s><s>Assistant: a1</s>",
        "<s>Human:q1\n<\\s><s>Assistant: a1</s><\\s><s>Human:q2\n<\\s><s>Assistant: a2</s>",
        "SYS<\\s><s>Human:q1\n<\\s><s>Assistant: a1</s><\\s><s>Human:q2\n<\\s><s>Assistant: a2</s>",
        "<s>Human:q1\n<\\s><s>Assistant: a1</s><\\s><s>Human:q2\n<\\s><s>Assistant: a2</s>",
    ),
    "orca": with_system(
        "<|im_start|>system\nSYS<|im_end|>\n", ORCA,
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistanta1</s>",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistanta1</s>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistanta2</s>",
    ),
    "orca@original": with_system(
        "SYS\n", ORCA,
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistanta1</s>",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistanta1</s>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistanta2</s>",
    ),
    "llama2": (
        f"<s>[INST] <<SYS>>\n{HONEST}\n<</SYS>>\n\nq1 [/INST] a1</s>",
        f"<s>[INST] <<SYS>>\n{HONEST}\n<</SYS>>\n\nq1 [/INST] a1</s><s>[INST] q2 [/INST] a2</s>",
        "<s>[INST] <<SYS>>\nSYS\n<</SYS>>\n\nq1 [/INST] a1</s><s>[INST] q2 [/INST] a2</s>",
        "<s>[INST] q1 [/INST] a1</s><s>[INST] q2 [/INST] a2</s>",
    ),
    "llama2_zh": (
        f"<s>[INST] <<SYS>>\n{ZH}\n<</SYS>>\n\nq1 [/INST] a1</s>",
        f"<s>[INST] <<SYS>>\n{ZH}\n<</SYS>>\n\nq1 [/INST] a1</s><s>[INST] q2 [/INST] a2</s>",
        "<s>[INST] <<SYS>>\nSYS\n<</SYS>>\n\nq1 [/INST] a1</s><s>[INST] q2 [/INST] a2</s>",
        "<s>[INST] q1 [/INST] a1</s><s>[INST] q2 [/INST] a2</s>",
    ),
    "starchat": (
        "<s><|system|>\n<|end|>\n<|user|>\nq1<|end|>\n<|assistant|>a1<|end|>",
        "<s><|system|>\n<|end|>\n<|user|>\nq1<|end|>\n<|assistant|>a1<|end|>\n"
        "<|user|>\nq2<|end|>\n<|assistant|>a2<|end|>",
        "<s><|system|>\nSYS<|end|>\n<|user|>\nq1<|end|>\n<|assistant|>a1<|end|>\n"
        "<|user|>\nq2<|end|>\n<|assistant|>a2<|end|>",
        "<s><|system|>\n<|end|>\n<|user|>\nq1<|end|>\n<|assistant|>a1<|end|>\n"
        "<|user|>\nq2<|end|>\n<|assistant|>a2<|end|>",
    ),
    "chatml": with_system(
        "<|im_start|>system\nSYS<|im_end|>\n", "You are a helpful assistant.",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>",
    ),
    "chatml@original": with_system(
        "<|im_start|>system\nSYS<|im_end|>\n", "You are a helpful assistant.",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1</s>",
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1</s><|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2</s>",
    ),
    "llama3": with_system(
        "<|start_header_id|>system<|end_header_id|>\n\nSYS<|eot_id|>", ZH,
        "<|start_header_id|>user<|end_header_id|>\n\nq1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\nq1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nq2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\na2<|eot_id|>",
    ),
}  # fmt: skip
