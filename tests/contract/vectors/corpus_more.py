"""More passages and questions, written for these tests after the weights of the fusion were fixed.

Many are about machines, codes and names, which words find better than meaning; the others the other way round.
"""

from __future__ import annotations

# id -> (passage, a question in English, the same in Chinese)
ENGLISH: dict[str, tuple[str, str | None, str | None]] = {
    "err-5031": (
        "ERR-5031 means that the gateway got no answer from the payment provider within eight "
        "seconds. The order stays open and is tried again by the night job.",
        "what does ERR-5031 stand for",
        "ERR-5031 是什么意思",
    ),
    "err-5013": (
        "ERR-5013 is raised when a customer's address has no postal code. Support can add it by "
        "hand in the back office.",
        "ERR-5013",
        None,
    ),
    "max-retries": (
        "The option max_retries says how often a job is begun again after a failure. With 0 it "
        "fails at once; the default is 3.",
        "which option limits how often a failed job is repeated",
        "max_retries 默认是多少",
    ),
    "kx-200": (
        "The KX-200 label printer takes rolls of 102 mm. To clear a jam, lift the green lever and "
        "pull the paper towards you.",
        "paper stuck in the KX-200",
        "KX-200 卡纸了怎么处理",
    ),
    "kx-350": (
        "The KX-350 prints on both sides and staples up to forty sheets. Its toner lasts for nine "
        "thousand pages.",
        "which machine can staple",
        None,
    ),
    "vpn": (
        "From home you reach the internal pages only through the tunnel: start WireGuard, choose "
        "the profile hq-west and confirm on your phone.",
        "I can't open the intranet when I work at home",
        "在家里怎么访问公司内网",
    ),
    "visitors": (
        "Guests sign in at the front desk, get a yellow badge and are fetched by their host. They "
        "may not walk alone beyond the canteen.",
        "can my customer walk around in the building by herself",
        None,
    ),
    "fire": (
        "When the siren sounds, leave everything, take the stairs and gather at the oak in the "
        "car park. The last one closes the doors, but locks none.",
        "where do we meet after the alarm went off",
        "火警响了去哪里集合",
    ),
    "lease": (
        "The lease of flat 14B ends on 31 March 2027. Notice must be given in writing three months "
        "before.",
        "until when can the contract for 14B be terminated",
        None,
    ),
    "warranty": (
        "Batteries are covered for one year, all other parts for three. The guarantee is void "
        "once the seal on the back has been broken.",
        "I opened the device, will you still repair it for free",
        "自己拆开过的机器还保修吗",
    ),
    "release-4-2": (
        "Version 4.2.0 brought dark mode and dropped support for Windows 8. Version 4.2.1 repaired "
        "the import of calendars.",
        "since which release is there a dark theme",
        "哪个版本修复了日历导入",
    ),
    "glacier": (
        "A glacier flows under its own weight, a metre a day at most, and grinds the rock beneath "
        "it to flour that turns the lakes milky.",
        "why are mountain lakes below the ice so cloudy",
        "冰川为什么会移动",
    ),
    "coral": (
        "Corals turn white when the water is too warm: they throw out the algae that feed them and "
        "starve unless it cools in a few weeks.",
        "what happens to reefs in a heat wave at sea",
        "珊瑚为什么会变白",
    ),
    "vanilla": (
        "Outside Mexico each vanilla flower must be pollinated by hand within a few hours, which "
        "makes it the second most expensive spice.",
        "why does vanilla cost so much",
        "香草为什么这么贵",
    ),
    "violin": (
        "A violin is tuned in fifths, from the low G to the high E. The soundpost, a thin stick of "
        "spruce, carries the vibration to the back.",
        None,
        "小提琴的四根弦怎么定音",
    ),
    "blood": (
        "Somebody with group O without the Rhesus factor can give to all, but take only from his "
        "own kind.",
        "who is a universal donor",
        "什么血型可以给所有人输血",
    ),
    "lighthouse": (
        "The lens of Fresnel bends the light of a small flame into a beam that is seen for thirty "
        "kilometres, with a tenth of the glass of a solid one.",
        "how did old beacons on the coast shine so far",
        None,
    ),
    "penicillin": (
        "In 1928 Fleming came back from his holidays and found a mould that had killed the bacteria "
        "on one of his dishes.",
        "how was the first antibiotic discovered",
        "青霉素是怎么发现的",
    ),
    "subnet": (
        "A /27 network has thirty usable addresses: thirty-two less the network's own and the "
        "broadcast address.",
        "how many hosts fit into a /27",
        "/27 子网有多少可用地址",
    ),
    "utf8": (
        "In UTF-8 a character takes one to four bytes. The first byte tells how many follow, each of "
        "which begins with the bits 10.",
        "how long can a letter be in UTF-8",
        "UTF-8 一个字符占几个字节",
    ),
}  # fmt: skip

# id -> (passage, a question in Chinese, the same in English)
CHINESE: dict[str, tuple[str, str | None, str | None]] = {
    "zh/报销": ("出差回来后十五天内在系统里提交报销单，发票要拍照上传，超过五百元需要部门经理审批。", "报销要在几天内提交", "deadline for handing in travel expenses"),
    "zh/停车": ("地下车库B2层供员工停放，月卡每月三百元，访客前两小时免费。", "员工停车一个月多少钱", None),
    "zh/打印机": ("三楼的MF-860打印机支持双面彩印，卡纸时先打开后盖，把纸沿箭头方向抽出。", "MF-860 卡纸怎么办", "how to clear a jam in the MF-860"),
    "zh/会议室": ("会议室通过日历预订，最多提前十四天；预订后十五分钟无人签到会自动释放。", "会议室订了没去会怎么样", None),
    "zh/快递": ("寄往新疆、西藏的包裹需要七到十天，江浙沪一般次日送达，港澳台另收运费。", "寄到西藏要多久", "how long does a parcel to Tibet take"),
    "zh/会员": ("金卡会员每消费一元积两分，积分两年内有效，可以抵扣下次购物的运费。", "积分多久过期", None),
    "zh/错误码": ("错误码E2017表示签名校验失败，请检查密钥是否正确，以及服务器时间是否相差超过五分钟。", "E2017 是什么错误", "what causes error E2017"),
    "zh/接口": ("调用query_orders接口时，page_size最大为一百，超过会返回参数错误。", "query_orders 一页最多多少条", None),
    "zh/火锅": ("重庆火锅的底料用牛油、花椒和干辣椒炒成，毛肚涮十五秒左右口感最脆。", "毛肚要涮多长时间", "how long to dip tripe in hot pot"),
    "zh/月饼": ("广式月饼烤好后要放两三天，让饼皮回油变软，这样味道才最好。", "月饼为什么不能马上吃", None),
    "zh/端午": ("端午节吃粽子、赛龙舟，相传是为了纪念投江的诗人屈原。", "端午节纪念谁", "whom does the dragon boat festival remember"),
    "zh/书法": ("学书法先练楷书，执笔要稳，墨不宜太浓，写完把毛笔洗净倒挂晾干。", "毛笔用完怎么保养", None),
    "zh/太极": ("太极拳动作缓慢连贯，讲究以意导气，长期练习能改善老年人的平衡，减少跌倒。", "老人怎样预防摔倒", "which exercise helps old people not to fall"),
    "zh/黄河": ("黄河流经黄土高原时带走大量泥沙，下游河床逐年抬高，成了高出地面的悬河。", "黄河为什么比两岸地面还高", None),
    "zh/候鸟": ("每年冬天，成千上万的白鹤从西伯利亚飞到鄱阳湖过冬，第二年三月再飞回去。", "白鹤去哪里过冬", "where do Siberian cranes spend the winter"),
    "zh/蚕": ("一只蚕吐出的丝能有一千多米长，结茧大约需要三天三夜。", "一个蚕茧的丝有多长", None),
    "zh/血压": ("量血压前应静坐五分钟，手臂与心脏同高，早晚各量一次，连续记录一周。", "在家怎样测量血压", "how to take one's blood pressure properly"),
    "zh/量子": ("两个纠缠的粒子无论相距多远，测量其中一个，另一个的状态也立刻确定，但这不能用来传递信息。", "纠缠可以超光速通信吗", None),
    "zh/区块链": ("每个区块都记录前一个区块的哈希值，改动任何一笔旧账都会使后面所有区块失效。", "为什么很难篡改旧的交易记录", "why can old entries of a block chain not be forged"),
    "zh/垃圾分类": ("过期药品、废电池和灯管属于有害垃圾，要投放到红色的桶里，不能和厨余垃圾混在一起。", "过期的药扔到哪个桶", None),
}  # fmt: skip
