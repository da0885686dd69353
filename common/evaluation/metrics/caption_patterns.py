"""The pieces of the Treebank's tokens as regular expressions, after the definitions of CoreNLP's
lexer. Letters of a class count in the case that they stand in, spelled-out words in any case: that
is how the lexer, though caseless, reads them."""

SPACE = "[ \t\u00a0\u2000-\u200a\u3000]"
SPACE_OR_END = "[ \t\u00a0\u2000-\u200a\u3000\n]"
# Numbers of other forms are alphanumeric to Python, but neither letters nor digits to Java.
NUMERIC = "²³¹¼-¾\u2070\u2074-\u2079\u2080-\u2089\u2150-\u215f\u2189\u2460-\u24ff"
ALPHA = rf"[^\W\d_{NUMERIC}]"
ALPHANUMERIC = rf"[^\W_{NUMERIC}]"
MARKS = "\u00ad\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u064b-\u065e\u0900-\u0903\u093c\u093e-\u094e"
LETTER = (
    rf"(?:{ALPHA}|[{MARKS}\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]|&[aeiouAEIOU](?i:acute|grave|uml);)"
)
WORD = rf"{LETTER}(?:{LETTER}|\d)*(?:[.!?]{LETTER}(?:{LETTER}|\d)*)*"
APOS = "(?:['\u0092\u2019]|(?i:&apos;))"
APOS_LIKE = f"(?:{APOS}|[\u0091\u2018\u201b])"
HYPHEN = "[-_\u058a\u2010\u2011]"
NUMERAL = r"(?:\d+(?:[.:,\u00ad\u066b\u066c]\d+)*|(?:[.:,\u00ad\u066b\u066c]\d+)+)"
SUFFIX = f"{APOS}(?:[msdMSD]|(?i:re|ve|ll))"  # of it's, they've
NOT = f"(?i:n){APOS_LIKE}(?i:t)"
ACRONYM = (
    r"(?:[A-Za-z](?:\.[A-Za-z])+|(?i:(?:Canada|Sino|Korean|EU|Japan|non)-U\.S)"
    r"|(?i:U\.S\.-(?:U\.K|U\.S\.S\.R)))"
)
# Of states and companies that are words as well only capitalised forms count.
BEFORE_LOWER_CASE = (
    "(?i:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu|Thurs|Fri|Ala|Ariz|Calif"
    "|Colo|Conn|Ct|Dak|Fla|Ga|Ind|Kans?|Ky|Md|Mich|Minn|Mo|Mont|Neb|Nev|Okla|Penn|Tenn|Va|Vt"
    "|Wisc?|Wyo|Inc|Cos?|Corp|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys|tel|est|ext|sq|Jr|Sr|Bros"
    r"|Blvd|Rd|(?:Ed|Ph)\.D|Esq|etc|al|seq|Bldg|(?-i:A)z|(?-i:A)rk|(?-i:D)el|(?-i:I)ll|(?-i:L)a"
    "|(?-i:M)ass|(?-i:M)iss|(?-i:O)re|(?-i:P)a|(?-i:T)ex|(?-i:W)ash|Pp?t(?-i:[ey])s?)"
)
BEFORE_NAMES = (
    "(?i:Mrs?|Ms|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt"
    "|Capt|Ste?|Ave|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens"
    "|Insp|Mlle|Mme|Msgr|Sfc|vs|Alex|Wm|Jos|Cie|a\\.k\\.a|cf|TREAS|Ph|Invt|Elec|Natl|Dept"
    "|M(?-i:[ft])g)"
)
AFTER_INITIAL = (
    "(?:About|According|Additionally|After|An|A|As|At|But|Did|During|Earlier|Her|Here|He|However"
    "|How|If|In|It|Last|Many|More|Now|Once|One|Other|Our|She|Since|Some|So|Such|That|Their|Then"
    "|There|These|They|The|This|We|When|While|What|Who|Why|Yet|You|M[rs]\\.)"
)
ELISION = f"[dDoOlL]{APOS_LIKE}{ALPHANUMERIC}"
THING = f"(?:{ELISION})?{ALPHANUMERIC}+(?:{HYPHEN}(?:{ELISION})?{ALPHANUMERIC}+)*"
HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{ACRONYM}\.|[A-Za-z0-9\u00ad]+))+"
SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"
WITH_AMPERSAND = r"[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+"
APOSTROPHE_WORD = (
    f"{APOS}(?i:n){APOS}?|[lLdDjJ]{APOS}|(?i:Dunkin|somethin|ol){APOS}|{APOS}(?i:em)"
    f"|[A-HJ-XZn]{APOS_LIKE}{ALPHA}{{2,}}|{APOS}[2-9]0(?i:s)|{APOS}(?i:till?|cause)"
    f"|{ALPHA}+[aeiouyAEIOUY]{APOS_LIKE}[aeiouA-Z]{ALPHA}*"
    f"|(?i:cont'd\\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l|o{APOS_LIKE}o)"
)
TAG = (
    r"<(?:[!?][A-Za-z\-][^>\r\n]*|[A-Za-z][A-Za-z0-9_:.\-]*(?:[ ]+(?:[A-Za-z][A-Za-z0-9_:.\-]*"
    r"(?:[ ]*=[ ]*(?:'[^'\r\n]*'|\"[^\"\r\n]*\"|[A-Za-z][A-Za-z0-9_:.\-]*))?))*[ ]*/?"
    r"|/[A-Za-z][A-Za-z0-9_:.\-]*)[ ]*>"
)
FULL_ADDRESS = r"(?i:https?)://[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-]"
LIKELY_ADDRESS = (
    r"(?:(?i:www)\.(?:[^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}"
    r"|(?:[^ \t\n\f\r\"`'<>|.!?(){},-_$]+\.)+(?i:com|net|org|edu))"
    r"(?:/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-])?"
)
MAIL = (
    r"(?:<|(?i:&lt;))?[a-zA-Z0-9][^ \t\n\f\r\"<>|()\u00a0{}]*@(?:[^ \t\n\f\r\"<>|(){}.\u00a0]+\.)*"
    r"[^ \t\n\f\r\"<>|(){}.\u00a0]+(?:>|(?i:&gt;))?"
)
PHONE = (
    r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
    r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5}|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)
FILE_NAME = (
    r"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*\.(?i:bat|bmp|class|cgi|cpp|c|dll|docx?|exe|gif|gz|html?"
    r"|h|jar|java|jpe?g|mov|mp[34g]|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|xml|x|zip|wm[va]|avi"
    r"|flv)"
)
SMILEY = r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]"
ASIAN_SMILEY = (
    r"[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\)"
    r"|\([\^x=~<>']-[\^x=~<>'`]\)"
)
QUOTE_PAIR = "[`\u2018-\u201f\u0082\u0084\u0091-\u0094\u2039\u203a\u00ab\u00bb]{1,2}"
SYMBOL = (
    "[+%&~^|\\\\\u00a6-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00ba\u00b5\u00d7\u00f7\u2016\u2017"
    "\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u207a-\u207f\u208a-\u208e\u2100-\u214f"
    "\u2190-\u21ff\u2200-\u2bff\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)
PAUSE = "[,;:\u3001]"
