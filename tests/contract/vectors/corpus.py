"""Passages and questions, written for these tests: what a small handbook and a commonplace book might hold.

No question repeats its passage: words are shared only where a person would repeat them.
"""

from __future__ import annotations

# id -> (passage, a question in English, the same in Chinese); questions only where there is one answer.
ENGLISH: dict[str, tuple[str, str | None, str | None]] = {
    "password": (
        "To reset a forgotten password, open the sign-in page and choose the link below the form. "
        "We send a message with a code that is valid for ten minutes.",
        "I can't log in because I don't remember my password",
        "忘记密码了怎么重新登录",
    ),
    "invoice": (
        "Invoices are issued on the first day of each month and are due within thirty days. "
        "Late payments carry a fee of two percent.",
        "when do I have to pay the bill",
        "账单最晚什么时候付款",
    ),
    "holiday": (
        "Employees have twenty-six days of paid leave a year. Ask your manager for dates at least "
        "three weeks ahead; unused days expire in March.",
        "how many vacation days do staff get",
        "员工每年有多少天年假",
    ),
    "sick": (
        "If you are ill, call your team lead before nine in the morning. A doctor's certificate is "
        "needed from the third day on.",
        "what must I do when I fall sick",
        "生病不能上班该怎么办",
    ),
    "travel": (
        "Book trains in second class and flights in economy. Hotels may cost up to one hundred and "
        "twenty euros a night; keep the receipts for the accountant.",
        "rules for business trips and hotel costs",
        "出差住酒店的报销规定",
    ),
    "backup": (
        "The database is copied every night at two o'clock to a second site. Copies are kept for "
        "ninety days, and a restore is rehearsed every quarter.",
        "how often do you save a copy of our data",
        "数据多久备份一次",
    ),
    "outage": (
        "When the service is down, look at the status page first. The engineer on duty posts there "
        "every half hour until everything works again.",
        "where can I see whether the system is broken right now",
        None,
    ),
    "api-key": (
        "Programs authenticate with a secret key in the header of each request. Never put the key "
        "into a repository; rotate it at once if it has leaked.",
        "our secret token was published by accident",
        "密钥不小心泄露了要怎么处理",
    ),
    "refund": (
        "Goods can be sent back within fourteen days. The money returns to the card that was "
        "charged, usually after five working days.",
        "can I return what I bought and get my money",
        "买的东西可以退货退款吗",
    ),
    "shipping": (
        "Parcels leave our warehouse in Rotterdam every afternoon. Delivery inside Europe takes "
        "two to four days, overseas up to three weeks.",
        "how long until my parcel arrives",
        "包裹需要几天才能送到",
    ),
    "bread": (
        "Sourdough needs patience rather than yeast: flour, water and salt rest overnight, and the "
        "loaf bakes in a very hot iron pot.",
        "how do I bake a loaf without yeast",
        "不用酵母怎么烤面包",
    ),
    "tea": (
        "Green tea turns bitter in boiling water. Let the kettle cool to eighty degrees and pour "
        "the leaves off after two minutes.",
        "why does my green tea taste bitter",
        "绿茶为什么会苦",
    ),
    "soup": (
        "For a clear broth, simmer bones with an onion and a carrot for six hours and skim the "
        "foam. Salt comes last.",
        None,
        None,
    ),
    "cheese": (
        "Hard cheeses ripen in cool cellars for a year or longer. The wheels are turned and "
        "brushed with brine each week so that a firm rind forms.",
        None,
        None,
    ),
    "bicycle": (
        "A chain that jumps on the sprockets is worn. Measure it with a gauge and change it before "
        "it ruins the cassette.",
        "my bike's chain keeps slipping",
        "自行车链条老是打滑",
    ),
    "car-battery": (
        "On cold mornings an old car battery may not turn the engine. Connect the red cable to the "
        "plus pole first, then the black one to bare metal.",
        "the car will not start in winter",
        "冬天汽车打不着火",
    ),
    "train": (
        "High-speed trains between the two capitals run every hour and take three hours and ten "
        "minutes. Seats must be reserved.",
        None,
        None,
    ),
    "moon": (
        "The tides follow the moon: twice a day its pull raises the sea on both sides of the "
        "Earth. At full and new moon the sun helps, and the tide is highest.",
        "what makes the sea rise and fall",
        "潮汐是怎么产生的",
    ),
    "saturn": (
        "Saturn's rings are countless pieces of ice, from grains of dust to blocks as big as a "
        "house, in a disk only some tens of metres thick.",
        "what are the rings of the planet made of",
        "土星环是由什么构成的",
    ),
    "volcano": (
        "Magma rises because it is lighter than the rock around it. When gas comes out of it "
        "suddenly, as from a shaken bottle, the volcano explodes.",
        "why do volcanoes erupt",
        "火山为什么会爆发",
    ),
    "bees": (
        "A honeybee that has found flowers dances on the comb: the angle shows the direction from "
        "the sun, the length of the waggle the distance.",
        "how do bees tell each other where food is",
        "蜜蜂怎样告诉同伴花在哪里",
    ),
    "whales": (
        "Humpback whales sing for hours. All males of one sea sing the same song, and it changes "
        "a little from year to year.",
        None,
        "鲸鱼会唱歌吗",
    ),
    "octopus": (
        "An octopus has three hearts and blue blood. Two thirds of its nerve cells sit in the "
        "arms, which can taste what they touch.",
        "which animal has several hearts",
        "哪种动物有三个心脏",
    ),
    "sleep": (
        "Adults need seven to nine hours of sleep. A dark, cool room and no screens in the last "
        "hour help more than any pill.",
        "tips against lying awake at night",
        "晚上睡不着有什么办法",
    ),
    "vaccine": (
        "A vaccine shows the immune system a harmless part of a germ. Cells remember it, and the "
        "real infection is met within hours.",
        "how does immunisation protect the body",
        "疫苗是怎样保护人的",
    ),
    "headache": (
        "Most headaches come from tension or too little water. See a doctor if the pain is sudden "
        "and stronger than ever before.",
        None,
        None,
    ),
    "printing": (
        "Movable type was cast in metal in Korea two generations before Gutenberg. In Mainz the "
        "press, the ink and the alloy came together, and books became cheap.",
        "who invented the printing of books",
        "印刷术的历史",
    ),
    "silk-road": (
        "Caravans carried silk, paper and glass between China and the Mediterranean. Few merchants "
        "went the whole way; goods changed hands in oasis towns.",
        "trade routes between China and Europe in old times",
        "古代中国和欧洲之间的贸易路线",
    ),
    "canal": (
        "The Panama Canal lifts ships twenty-six metres to an artificial lake and lowers them to "
        "the other ocean. Each passage spends a lake's worth of fresh water.",
        "how do ships cross from one ocean to the other in Central America",
        None,
    ),
    "marathon": (
        "The marathon is forty-two kilometres and one hundred and ninety-five metres long because "
        "the race of 1908 was to begin at a castle's nursery windows.",
        "why does the long-distance race have such an odd length",
        "马拉松有多长",
    ),
    "chess": (
        "In chess a pawn that reaches the last rank becomes another piece, nearly always a queen. "
        "Under-promotion to a knight is rare and beautiful.",
        "what happens when a pawn gets to the end of the board",
        None,
    ),
    "piano": (
        "A concert grand holds more than two hundred strings under a tension of twenty tonnes. It "
        "must be tuned before every concert.",
        None,
        "钢琴需要经常调音吗",
    ),
    "rain": (
        "Warm air carries water up until it cools and droplets form around dust. When they are too "
        "heavy for the rising air, they fall.",
        "how does rain come about",
        "雨是怎么形成的",
    ),
    "desert": (
        "Deserts are dry, not always hot: the largest is Antarctica. Nights are cold because no "
        "clouds hold the warmth of the day.",
        "which is the biggest desert in the world",
        "世界上最大的沙漠在哪里",
    ),
    "recycling": (
        "Glass can be melted again without end, paper about six times. Plastic mixed with food "
        "mostly ends up in the furnace.",
        "which waste can be used again",
        "哪些垃圾可以回收利用",
    ),
    "solar": (
        "Solar panels lose a little power with each degree of heat. They yield most on bright, "
        "cool days in spring.",
        "do photovoltaic cells work better in hot weather",
        "太阳能板天热时发电更多吗",
    ),
    "mortgage": (
        "A mortgage with a fixed rate costs the same for ten years or more; a variable one follows "
        "the central bank. Special repayments shorten both.",
        "difference between loans for buying a house",
        "买房贷款固定利率和浮动利率",
    ),
    "garden": (
        "Tomatoes want sun, string and a roof against rain. Water the soil, not the leaves, and "
        "break out the side shoots.",
        "how should I look after tomato plants",
        "怎么种西红柿",
    ),
    "cat": (
        "Cats purr when they are content, but also when they are hurt: the hum seems to help bones "
        "and sinews heal.",
        "why does a cat purr",
        "猫为什么会发出呼噜声",
    ),
    "index": (
        "An inverted index lists, for every word, the documents that hold it. A search merges the "
        "lists of its words instead of reading all texts.",
        "how can a search engine find words so fast",
        "搜索引擎为什么能很快找到关键词",
    ),
}

# id -> (passage, a question in Chinese)
CHINESE: dict[str, tuple[str, str | None]] = {
    "zh/退货": ("商品签收后七天内可以无理由退货，请保持包装完好。退款会在三个工作日内原路返回。", "东西不喜欢能不能退"),
    "zh/发票": ("电子发票在付款成功后自动开具，可在订单页面下载。如需更改抬头，请在当月联系客服。", "在哪里下载发票"),
    "zh/年假": ("入职满一年的员工享有十天带薪年假，工龄满十年增加到十五天。请提前两周申请。", "工作十年以后有几天假期"),
    "zh/考勤": ("公司实行弹性工作制，上午十点以前到岗即可，每天工作满八小时。忘记打卡可在系统中补签。", "早上几点之前要到公司"),
    "zh/备份": ("数据库每天凌晨三点自动备份到异地机房，保留六个月，每季度演练一次恢复流程。", "数据丢了能恢复吗"),
    "zh/密码": ("连续五次输错密码，账号会被锁定半小时。可以通过绑定的手机号接收验证码来重置密码。", "账号被锁住了登录不上"),
    "zh/豆腐": ("做麻婆豆腐要用嫩豆腐和牛肉末，先把豆瓣酱炒出红油，最后撒上花椒粉。", "麻婆豆腐怎么做"),
    "zh/饺子": ("包饺子的面要揉得软硬适中，醒半小时再擀皮。水开后下锅，点三次凉水就熟了。", "煮饺子要加几次冷水"),
    "zh/茶": ("普洱茶越陈越香，存放时要通风避光，不能和有异味的东西放在一起。", "普洱茶应该怎样保存"),
    "zh/月亮": ("月亮总是以同一面对着地球，因为它自转一圈的时间和绕地球一圈的时间一样长。", "为什么看不到月球背面"),
    "zh/地震": ("地震来临时，应躲在结实的桌子下面护住头部，震动停止后再走楼梯撤离，不要乘电梯。", "发生地震的时候怎么保护自己"),
    "zh/熊猫": ("大熊猫每天要花十几个小时吃竹子，因为竹子营养少，它的肠胃又只能消化其中一小部分。", "大熊猫为什么整天都在吃"),
    "zh/长城": ("长城并不是一道墙，而是不同朝代修筑的许多段城墙、壕沟和烽火台，总长超过两万公里。", "长城一共有多长"),
    "zh/造纸": ("东汉的蔡伦改进了造纸的方法，用树皮、麻头和旧渔网做原料，纸张从此便宜起来。", "古时候的纸是用什么做的"),
    "zh/高铁": ("从北京到上海的高铁最快四个多小时，车票可以提前十五天在网上购买。", "坐火车去上海要多久"),
    "zh/围棋": ("围棋棋盘有十九条横线和十九条竖线，执黑的一方先走，因此终局时要贴给白方几目。", "下围棋谁先走"),
    "zh/失眠": ("睡前少看手机，不喝浓茶和咖啡，固定起床时间，比吃安眠药更能改善睡眠。", "晚上总是睡不着"),
    "zh/近视": ("儿童每天在户外活动两小时，可以明显降低近视的风险；看书时光线要足，距离要够。", "小孩怎样预防近视"),
    "zh/电池": ("锂电池最怕高温和完全放空，手机电量保持在两成到八成之间，寿命最长。", "手机怎么充电电池才耐用"),
    "zh/向量": ("向量检索先把文字变成一串数字，意思相近的文字距离也近，所以不用相同的词也能找到。", None),
}  # fmt: skip
