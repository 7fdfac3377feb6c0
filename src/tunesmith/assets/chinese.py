"""Simple Chinese: small stories, and questions with answers."""

# ruff: noqa: SIM905, E501  (lists of words in one string; ruff counts Chinese characters twice)
from __future__ import annotations

import random

from tunesmith.assets.spin import spin

WORDS = {
    "猫": "cat", "狗": "dog", "鸟": "bird", "鱼": "fish", "马": "horse", "牛": "cow", "羊": "sheep",
    "猪": "pig", "鸡": "hen", "鸭": "duck", "熊": "bear", "兔子": "rabbit", "老鼠": "mouse",
    "狮子": "lion", "大象": "elephant", "猴子": "monkey", "书": "book", "门": "door", "窗": "window",
    "灯": "lamp", "床": "bed", "桌子": "table", "椅子": "chair", "水": "water", "火": "fire",
    "山": "mountain", "河": "river", "海": "sea", "树": "tree", "花": "flower", "太阳": "sun",
    "月亮": "moon", "星星": "star", "天空": "sky", "雨": "rain", "雪": "snow", "风": "wind",
    "红": "red", "蓝": "blue", "绿": "green", "黄": "yellow", "白": "white", "黑": "black",
    "苹果": "apple", "面包": "bread", "茶": "tea", "牛奶": "milk", "家": "home", "学校": "school",
    "老师": "teacher", "朋友": "friend", "妈妈": "mother", "爸爸": "father", "手": "hand",
    "眼睛": "eye", "大": "big", "小": "small", "快": "fast", "慢": "slow", "热": "hot", "冷": "cold",
    "一": "one", "二": "two", "三": "three", "四": "four", "五": "five", "六": "six", "七": "seven",
    "八": "eight", "九": "nine", "十": "ten", "早上": "morning", "晚上": "evening", "今天": "today",
    "明天": "tomorrow", "厨房": "kitchen", "卧室": "bedroom", "花园": "garden", "车": "car",
    "客厅": "living room", "浴室": "bathroom", "车库": "garage", "办公室": "office",
    "走廊": "hall", "风扇": "fan", "暖气": "heater", "窗帘": "curtain", "收音机": "radio",
    "电视": "television", "音乐": "music", "打开": "open", "关上": "close", "房间": "room",
    "温度": "temperature", "到": "to", "把": "take", "调": "set", "请": "please", "和": "and",
}  # fmt: skip
OPPOSITES = (
    "大小 多少 高低 长短 快慢 冷热 黑白 上下 左右 前后 新旧 远近 开关 早晚 男女 老少 轻重 强弱 "
    "深浅 进退 来去 有无 真假 好坏 甜苦 明暗 买卖 问答 哭笑 南北 东西 天地"
).split()
FACTS = {
    "天空是什么颜色": "天空是蓝色的。", "雪是什么颜色": "雪是白色的。", "草是什么颜色": "草是绿色的。",
    "太阳从哪边升起": "太阳从东边升起。", "太阳从哪边落下": "太阳从西边落下。",
    "一年有几个季节": "一年有四个季节：春、夏、秋、冬。", "一年有几个月": "一年有十二个月。",
    "一个星期有几天": "一个星期有七天。", "一天有多少小时": "一天有二十四小时。",
    "一小时有多少分钟": "一小时有六十分钟。", "中国的首都是哪里": "中国的首都是北京。",
    "法国的首都是哪里": "法国的首都是巴黎。", "英国的首都是哪里": "英国的首都是伦敦。",
    "日本的首都是哪里": "日本的首都是东京。", "俄罗斯的首都是哪里": "俄罗斯的首都是莫斯科。",
    "意大利的首都是哪里": "意大利的首都是罗马。", "猫有几条腿": "猫有四条腿。", "鸟有几条腿": "鸟有两条腿。",
    "蜘蛛有几条腿": "蜘蛛有八条腿。", "鱼生活在哪里": "鱼生活在水里。", "牛吃什么": "牛吃草。",
    "猫喜欢吃什么": "猫喜欢吃鱼。", "蜜蜂会做什么": "蜜蜂会酿蜜。", "水结冰以后是什么": "水结冰以后是冰。",
    "静夜思是谁写的": "《静夜思》是李白写的。", "春晓是谁写的": "《春晓》是孟浩然写的。",
    "登鹳雀楼是谁写的": "《登鹳雀楼》是王之涣写的。", "论语记录了谁的话": "《论语》记录了孔子的话。",
    "星期一后面是星期几": "星期一后面是星期二。", "星期五后面是星期几": "星期五后面是星期六。",
    "春天后面是什么季节": "春天后面是夏天。", "夏天后面是什么季节": "夏天后面是秋天。",
    "晚上天上有什么": "晚上天上有月亮和星星。", "下雨的时候要带什么": "下雨的时候要带雨伞。",
}  # fmt: skip
TALK = {
    "[你好|您好|你好！|嗨]": "你好！[很高兴见到你。|我能帮你做什么？|有什么可以帮你？]",
    "你是谁？": "我是 Tiny，一个用 tunesmith 训练的小语言模型。",
    "[你叫什么名字？|你的名字是什么？]": "我叫 Tiny。",
    "你会说中文吗？": "会一点。我还很小，正在学习。",
    "[谢谢|谢谢你|多谢]": "[不客气！|不用谢。]",
    "[再见|拜拜]": "再见！[祝你愉快。|下次再聊。]",
    "[早上好|早安]": "早上好！[今天天气真好。|你睡得好吗？]",
    "[晚安|我要睡觉了]": "晚安！[做个好梦。|]",
    "[我很难过|我不开心|我今天很难过]": "[别难过|我很抱歉听到这个]，[明天会更好。|想和我说说吗？|我陪你。]",
    "[我很高兴|我今天很开心]": "太好了！[我也为你高兴。|]",
    "我[饿|好饿]了": "那就[吃一个苹果|吃点面包|喝一杯牛奶]吧。",
    "我[累|好累]了": "那就休息一会儿吧。",
    "你会做什么？": "我会讲小故事，会算简单的加减法，也会背几句古诗。",
    "你是人吗？": "不是，我是一个小语言模型。",
}
VERSES = (
    "床前明月光/疑是地上霜 举头望明月/低头思故乡 春眠不觉晓/处处闻啼鸟 夜来风雨声/花落知多少 "
    "白日依山尽/黄河入海流 欲穷千里目/更上一层楼 锄禾日当午/汗滴禾下土 谁知盘中餐/粒粒皆辛苦 "
    "千山鸟飞绝/万径人踪灭 孤舟蓑笠翁/独钓寒江雪 红豆生南国/春来发几枝 愿君多采撷/此物最相思 "
    "空山不见人/但闻人语响 离离原上草/一岁一枯荣 野火烧不尽/春风吹又生 海内存知己/天涯若比邻 "
    "松下问童子/言师采药去 只在此山中/云深不知处 国破山河在/城春草木深 明月松间照/清泉石上流 "
    "大漠孤烟直/长河落日圆 随风潜入夜/润物细无声 慈母手中线/游子身上衣 人之初/性本善 "
    "两个黄鹂鸣翠柳/一行白鹭上青天 飞流直下三千尺/疑是银河落九天 但愿人长久/千里共婵娟"
).split()
DIGITS = "零一二三四五六七八九十"
NAMES = "小明 小红 小华 小丽 小刚 小兰 小军 小美 小雨 小月".split()
ANIMALS = "猫 狗 鸟 兔子 老鼠 熊 马 羊 猴子 鸭子 狐狸 松鼠".split()
THINGS = "球 书 帽子 风筝 灯 杯子 铃铛 盒子 雨伞 花".split()
COLOURS = "红色 蓝色 绿色 黄色 白色 黑色".split()
ROOMS = "厨房 卧室 客厅 浴室 车库 办公室 走廊 花园".split()
HOUSE = "灯 风扇 暖气 窗帘 收音机 电视 门 窗户 桌子 椅子 床".split()
PLACES = "森林 花园 河边 学校 山上 村子 海边 田野".split()
PLOTS = (
    "有一天，{n}的{c}{t}不见了。{n}在{p2}找了很久，[都没有找到|还是没有找到]。小{a}走过来说：“[别哭|别着急]，"
    "我来帮你。”它们一起找，最后在[树下|石头后面|草丛里]找到了{t}。“谢谢你！”{n}说。",
    "有一天，{n}带着[一个苹果|一块面包|一块蛋糕]去{p2}。路上遇到一只小{a}。小{a}说：“我[很饿|好饿]，可以给我"
    "一点吗？”{n}分给它一半。小{a}高兴地说：“你真好！”",
    "一天晚上，{n}听见[窗外|门外]有声音，心里很害怕。{n}拿着灯去看，原来是一只小{a}。“外面很冷，我可以进来吗？”"
    "小{a}问。“请进吧。”{n}说。",
    "{n}想学[游泳|画画|唱歌|骑车|写字]。第一天没学会，第二天也没学会。[妈妈|爸爸|老师|奶奶]说：“不要放弃，"
    "再试一次。”{n}每天都练习，最后终于学会了。",
    "春天，{n}在{p}种下一颗种子，每天给它浇水。小{a}问：“它什么时候长大？”{n}说：“要等一等。”到了夏天，"
    "开出了一朵{c}的花。[大家都说真美|小{a}说真香]。",
    "{n}和小{a}[比赛跑步|赛跑]，从{p}跑到{p2}。小{a}跑得很快，可是它在路上睡着了。{n}[一直跑|没有停下来]，"
    "最后赢了。",
)
ENDS = "[从此他们成了好朋友。|大家都很高兴。|{n}开心地笑了。|后来他们常常一起玩。|他们高高兴兴地回家了。]"


def story(rng: random.Random, animal: str | None = None) -> str:
    """A story of three to six sentences."""
    place, place2 = rng.sample(PLACES, 2)
    fill = {
        "n": rng.choice(NAMES),
        "a": animal or rng.choice(ANIMALS),
        "t": rng.choice(THINGS),
        "c": rng.choice(COLOURS),
        "p": place,
        "p2": place2,
    }
    plots = [plot for plot in PLOTS if "{a}" in plot] if animal else PLOTS
    start = "[从前，|很久以前，|从前，|]{p}住着一个孩子，叫{n}。"
    return spin(start + rng.choice(plots) + ENDS, rng, fill)


def exchange(rng: random.Random) -> tuple[str, str]:
    """A question and its answer."""
    kind = rng.choices(
        ("talk", "fact", "word", "opposite", "sum", "verse", "story", "repeat", "count", "house"),
        (9, 10, 16, 7, 11, 8, 5, 16, 3, 15),
    )[0]
    if kind == "talk":
        return small_talk(rng)
    if kind == "fact":
        question = rng.choice(list(FACTS))
        return question + rng.choice("？？？ ").strip(), FACTS[question]
    if kind == "word":
        return _word(rng)
    if kind == "opposite":
        a, b = rng.choice(OPPOSITES)
        a, b = (a, b) if rng.random() < 0.5 else (b, a)
        return f"“{a}”的反义词是什么？", f"“{a}”的反义词是“{b}”。"
    if kind == "sum":
        return _sum(rng)
    if kind == "verse":
        first, second = rng.choice(VERSES).split("/")
        return f"“{first}”的下一句是什么？", f"{second}。"
    if kind == "story":
        animal = rng.choice(ANIMALS)
        ask = spin("[请讲一个|给我讲一个|讲一个]关于{a}的故事[。|]", rng, {"a": animal})
        return ask, story(rng, animal)
    if kind == "house":
        return _house(rng)
    if kind == "repeat":
        words = "".join(rng.sample([*WORDS, *NAMES, *ROOMS, *HOUSE], rng.randint(1, 4)))
        return spin("[请重复|跟我说|请写]：{w}", rng, {"w": words}), words
    n = rng.randint(2, 10)
    return f"请从一数到{DIGITS[n]}。", "、".join(DIGITS[1 : n + 1]) + "。"


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A greeting, a mood or a question about the model itself, and what to say to it."""
    question = rng.choice(list(TALK))
    return spin(question, rng), spin(TALK[question], rng)


def _house(rng: random.Random) -> tuple[str, str]:
    rooms, things = rng.sample(ROOMS, 2), rng.sample(HOUSE, 2)
    at = rng.randrange(2)
    told = f"{rooms[0]}里有{things[0]}，{rooms[1]}里有{things[1]}。"
    if rng.random() < 0.5:
        return f"{told}{things[at]}在哪里？", f"{things[at]}在{rooms[at]}里。"
    return f"{told}{rooms[at]}里有什么？", f"{rooms[at]}里有{things[at]}。"


def _word(rng: random.Random) -> tuple[str, str]:
    chinese, english = rng.choice(list(WORDS.items()))
    return rng.choice(
        (
            (f"“{chinese}”用英语怎么说？", f"“{chinese}”的英语是 {english}。"),
            (f"{english} 是什么意思？", f"{english} 的意思是“{chinese}”。"),
            (f"How do you say {english} in Chinese?", f"{english} in Chinese is {chinese}."),
            (f"What does {chinese} mean?", f"{chinese} means {english}."),
        )
    )


def _sum(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    if rng.random() < 0.5 and a + b <= 10:
        return f"{DIGITS[a]}加{DIGITS[b]}等于几？", f"{DIGITS[a]}加{DIGITS[b]}等于{DIGITS[a + b]}。"
    if rng.random() < 0.5:
        return f"{a}加{b}等于几？", f"{a}加{b}等于{a + b}。"
    return f"{a + b}减{b}等于几？", f"{a + b}减{b}等于{a}。"
