"""The facts behind the exercises: capitals, opposites, plurals, days, months and names.

Only data and the rule of the regular plural; nothing here is random.
"""

import re


def _words(text: str) -> list[str]:
    """Split a text into words at white space."""
    return text.split()


def _pairs(text: str) -> list[tuple[str, str]]:
    """Parse pairs of the form `a: b; c: d`."""
    return [
        (left.strip(), right.strip())
        for left, right in (item.split(":") for item in text.split(";"))
    ]


CAPITALS = _pairs(
    """
Afghanistan: Kabul; Albania: Tirana; Algeria: Algiers; Argentina: Buenos Aires; Armenia: Yerevan;
Australia: Canberra; Austria: Vienna; Bangladesh: Dhaka; Belgium: Brussels; Bolivia: Sucre;
Brazil: Brasilia; Bulgaria: Sofia; Cambodia: Phnom Penh; Canada: Ottawa; Chile: Santiago;
China: Beijing; Colombia: Bogota; Croatia: Zagreb; Cuba: Havana; Cyprus: Nicosia;
Denmark: Copenhagen; Ecuador: Quito; Egypt: Cairo; Estonia: Tallinn; Ethiopia: Addis Ababa;
Finland: Helsinki; France: Paris; Georgia: Tbilisi; Germany: Berlin; Ghana: Accra;
Greece: Athens; Hungary: Budapest; Iceland: Reykjavik; India: New Delhi; Indonesia: Jakarta;
Iran: Tehran; Iraq: Baghdad; Ireland: Dublin; Israel: Jerusalem; Italy: Rome; Jamaica: Kingston;
Japan: Tokyo; Jordan: Amman; Kenya: Nairobi; Latvia: Riga; Lebanon: Beirut; Libya: Tripoli;
Lithuania: Vilnius; Luxembourg: Luxembourg; Malaysia: Kuala Lumpur; Malta: Valletta;
Mexico: Mexico City; Mongolia: Ulaanbaatar; Morocco: Rabat; Nepal: Kathmandu;
Netherlands: Amsterdam; New Zealand: Wellington; Nigeria: Abuja; Norway: Oslo;
Pakistan: Islamabad; Peru: Lima; Philippines: Manila; Poland: Warsaw; Portugal: Lisbon;
Romania: Bucharest; Russia: Moscow; Saudi Arabia: Riyadh; Senegal: Dakar; Serbia: Belgrade;
Singapore: Singapore; Slovakia: Bratislava; Slovenia: Ljubljana; South Korea: Seoul;
Spain: Madrid; Sudan: Khartoum; Sweden: Stockholm; Switzerland: Bern; Syria: Damascus;
Thailand: Bangkok; Tunisia: Tunis; Turkey: Ankara; Uganda: Kampala; Ukraine: Kyiv;
the United Kingdom: London; the United States: Washington; Uruguay: Montevideo;
Venezuela: Caracas; Vietnam: Hanoi; Zambia: Lusaka; Zimbabwe: Harare
"""
)
"""Countries (in the form used within a sentence) and their capitals."""

OPPOSITES = _pairs(
    """
hot: cold; big: small; up: down; left: right; good: bad; fast: slow; day: night; black: white;
open: closed; old: new; rich: poor; happy: sad; hard: soft; high: low; light: dark; long: short;
loud: quiet; near: far; early: late; empty: full; wet: dry; young: old; strong: weak;
thick: thin; wide: narrow; true: false; first: last; inside: outside; above: below;
before: after; begin: end; buy: sell; clean: dirty; deep: shallow; easy: difficult; heavy: light;
love: hate; more: less; push: pull; win: lose; yes: no; tall: short; sweet: sour;
brave: cowardly; cheap: expensive; friend: enemy; give: take; rough: smooth; sharp: blunt;
start: stop
"""
)
"""Words and their opposites."""

_IRREGULAR = _pairs(
    """
man: men; woman: women; child: children; foot: feet; tooth: teeth; mouse: mice; goose: geese;
ox: oxen; sheep: sheep; fish: fish; wolf: wolves; leaf: leaves; knife: knives; wife: wives;
life: lives; person: people; deer: deer; half: halves; thief: thieves; loaf: loaves
"""
)
IRREGULAR_PLURALS = dict(_IRREGULAR)
"""Nouns with irregular plurals."""

NOUNS = _words(
    """
ant apple army arrow baby baker ball banana basket beach bear bed bee beetle bell bench berry bird
blanket boat body book boss bottle bowl box boy brick bridge brush bucket bus butterfly button
camel candle car castle cat chair cherry church city class clock cloud coat coin copy country cow
crab crown cup daisy dancer day diary dictionary dish doctor dog donkey door dress drum duck duke
duty egg elephant enemy engine eraser factory fairy family farmer ferry floor flower fly fork fox
frog game garden giraffe glass glove hammer hat hen hill horse house island judge jury key king
kiss kite kitten ladder lady lake lamp lawyer letter library lily lion lizard lorry lunch match
mirror monkey moon mountain nail navy needle nest nurse orange painter pan paper party pearl
pencil penny pig pillow planet plate poem pony pot prince puppy purse queen rabbit ribbon ring
river road roof rope rose sailor shark shell shield ship shirt shoe singer snake sock soldier song
spider spoon star stone storm story street student sword table tax teacher thread tiger toad tower
toy train tree turtle valley wall wasp watch wave whale wheel window wish witch word writer zebra
"""
)
"""Nouns with regular plurals."""

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)

NAMES = _words(
    """
Alice Bob Carol David Emma Frank Grace Henry Ivy Jack Kate Leo Mary Nina Oscar Paul Rose Sam Tom
Uma Victor Wendy Anna Peter Lucy Hugo Clara Felix Dora Max Sofia Lukas Nora Adam Ella Simon Julia
Martin Laura Hannah Daniel Sarah Thomas Elena Marco Olga Yuki Chen Priya Omar Fatima Ahmed Ingrid
Pavel Zoe Ben Lily Ruth George Edith Arthur Irene Dorothy Becky Sid Huck Polly Jane Elizabeth
Charles Lydia Kitty Juliet Romeo Duncan Bianca Raj Mei Ali Eva Ian Noah Mia Liam Ava Ethan Chloe
Lucas Amelia
"""
)

SYLLABLES = _words(
    """
ba be bi bo bu ca co da de di do fa fe fi ga go ha he hi jo ka ke ki la le li lo lu ma me mi mo na
ne ni no pa pe po ra re ri ro ru sa se si so ta te ti to va ve vi wa ya yo za ze zo an en in on ar
er or el al th sh ch st
"""
)
"""Syllables from which invented names are built."""


def plural(noun: str) -> str:
    """Return the plural of a noun, from the list of irregular ones or by the rules of spelling."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"
