"""Texts labelled by hand with the language of each of their pieces.

``[de]`` says that what follows is German; a text without such a mark is in its target language. ``[-]`` is no word: a
formula, code, digits, a tag, a variable, a name amid another script. Words are counted by a rule of their own: white
space and hyphens part them, a Han character is one, each three of a run of kana begin one, each four of a run of Thai.
"""

from __future__ import annotations

import re

Row = tuple[str, str]
"""The target language, and the text with its marks."""

MARK = re.compile(r"\[([a-z]{2}|-)\]")


def pieces(row: Row) -> list[tuple[str, str]]:
    """Language and text of each piece."""
    _, *parts = MARK.split(row[1] if MARK.match(row[1]) else f"[{row[0]}]{row[1]}")
    return list(zip(parts[::2], parts[1::2], strict=True))


def text_of(row: Row) -> str:
    return "".join(piece for _, piece in pieces(row))


def label(row: Row) -> float:
    """The share of the target language's words among all words."""
    counts = [(language, count(language, piece)) for language, piece in pieces(row) if language != "-"]
    return sum(number for language, number in counts if language == row[0]) / sum(number for _, number in counts)


def count(language: str, piece: str) -> int:
    """The words of a piece."""
    if language == "th":
        return sum(-(-len(run) // 4) for run in re.findall(r"[\u0e01-\u0e3a\u0e40-\u0e4e]+", piece))
    if language in ("zh", "ja"):
        kana = sum(-(-len(run) // 3) for run in re.findall(r"[\u3041-\u30ff]+", piece))
        return len(re.findall(r"[\u4e00-\u9fff\u3005]", piece)) + kana
    return sum(any(char.isalpha() for char in token) for token in re.split(r"[\s-]+", piece))


SINGLE: list[Row] = [
    ("en", "Let me think about this step by step. The train leaves at noon and arrives three hours later."),
    ("en", "plus four is eleven, minus three is eight, plus two is ten"),
    (
        "en",
        "[en]We need the remainder of [-]$2^{100}$[en] modulo seven. Since [-]\\(2^3 = 8\\)[en] leaves "
        "one, we only look at the exponent modulo three.",
    ),
    ("en", "Wait, that is wrong. Check again: the sum must be even, but ours is odd."),
    (
        "en",
        "[en]First loop over the list, then keep the largest value:\n[-]```python\nfor item in values:\n   "
        " best = max(best, item)\n```[en]\nThis takes linear time.",
    ),
    (
        "en",
        "[en]Suppose [-]x[en] apples cost [-]$5[en] and [-]y[en] pears cost [-]$7[en]. Then twelve fruits "
        "cost at most eighty four dollars.",
    ),
    ("en", "[en]Combining like terms yields [-]3x + 5 = 20[en], so [-]x = 5[en]."),
    ("en", "Hmm, interesting.\nCase analysis:\n1. Both even.\n2. Both odd.\n3. Mixed parity."),
    ("en", "Euler and Gauss proved many theorems in number theory; Poincaré and Müller came later."),
    ("zh", "首先我们计算三加四，得到七，然后再减去二，得到五。"),
    ("zh", "减三得八，加四得十二，加五得十七"),
    ("zh", "[zh]设[-] x [zh]为苹果的数量，[-]total = 3 + x[zh]，所以总数不超过十。"),
    ("zh", "[zh]我们可以用[-] `left_sum` [zh]和[-] right_sum [zh]来记录两边的和，最后比较它们。"),
    ("zh", "[zh]由[-]$\\frac{a}{b} = \\frac{c}{d}$[zh]可知两个比例相等。因此[-]\\(ad = bc\\)[zh]。"),
    ("zh", "等一下，这一步好像不对，让我重新检查一遍。"),
    ("zh", "根據題意，這個數除以七餘三，我們先列出前幾個數。"),
    ("zh", "[zh]用[-] Python [zh]写一个循环，然后用[-] Newton [zh]法求根。"),
    ("ja", "まず三と四を足すと七になります。次に二を引くと五です。"),
    ("ja", "[ja]与えられた条件から、[-]x[ja]は偶数でなければならない。したがって答えは十二である。"),
    ("ja", "答え、十四。合計、三十。これで計算は終わりです。"),
    ("ja", "コンピュータでシミュレーションを行うと、結果は予想と一致した。"),
    ("ja", "[ja]三角形の面積は底辺かける高さわる二なので、[-]$6 \\times 4 / 2 = 12$[ja]となる。"),
    ("ko", "먼저 세 수를 모두 더하면 열둘이 됩니다. 그리고 둘을 빼면 열이 됩니다."),
    ("ko", "잠깐, 이 계산은 틀렸습니다. 다시 확인해 봅시다."),
    ("ko", "[ko]방정식 [-]$2x + 3 = 9$[ko] 에서 양변에서 셋을 빼면 [-]$2x = 6$[ko] 입니다."),
    ("es", "Primero sumamos los tres números y luego restamos dos, así que el resultado es diez."),
    ("es", "Espera, esto no es correcto. Hay que comprobar el segundo paso otra vez."),
    (
        "es",
        "[es]Sea [-]x[es] la cantidad de manzanas. Entonces [-]3x = 12[es] y por lo tanto hay cuatro manzanas.",
    ),
    (
        "es",
        "El tren sale a mediodía y llega tres horas después, por eso la velocidad media es de ochenta "
        "kilómetros por hora.",
    ),
    ("de", "Zuerst addieren wir die drei Zahlen und ziehen danach zwei ab, also ist das Ergebnis zehn."),
    ("de", "Moment, das stimmt nicht. Wir müssen den zweiten Schritt noch einmal prüfen."),
    (
        "de",
        "[de]Der Umfang beträgt [-]$2\\pi r$[de], folglich verdoppelt sich die Fläche nicht, sondern sie "
        "vervierfacht sich.",
    ),
    ("de", "plus drei ergibt sieben, minus zwei ergibt fünf"),
    (
        "fr",
        "D'abord, nous additionnons les trois nombres, puis nous soustrayons deux, donc le résultat est dix.",
    ),
    ("fr", "Attendons, il y a une erreur dans la deuxième ligne ; recommençons le calcul."),
    ("fr", "[fr]Soit [-]n[fr] un entier pair. Alors [-]\\(n = 2k\\)[fr] et son carré est divisible par quatre."),
    ("fr", "L'aire d'un triangle est égale à la moitié du produit de la base par la hauteur."),
    ("ru", "Сначала сложим три числа, затем вычтем два, значит ответ равен десяти."),
    ("ru", "Подождите, здесь ошибка. Проверим второй шаг ещё раз."),
    ("ru", "[ru]Пусть [-]x[ru] обозначает число яблок, тогда [-]3x = 12[ru] и яблок четыре."),
    ("uk", "Спочатку додамо три числа, потім віднімемо два, отже відповідь дорівнює десяти."),
    ("bg", "Първо събираме трите числа, след това изваждаме две и така получаваме десет."),
    ("pt", "Primeiro somamos os três números e depois subtraímos dois, então o resultado é dez."),
    ("pt", "Espere, não está certo: preciso verificar o segundo passo mais uma vez."),
    ("it", "Prima sommiamo i tre numeri e poi sottraiamo due, quindi il risultato è dieci."),
    ("it", "Aspetta, c'è un errore: dobbiamo controllare di nuovo il secondo passaggio."),
    ("ar", "أولا نجمع الأعداد الثلاثة ثم نطرح اثنين، إذن الجواب هو عشرة."),
    ("ar", "[ar]لنفترض أن [-]x[ar] عدد زوجي، لذلك يقبل القسمة على اثنين."),
    ("fa", "ابتدا سه عدد را با هم جمع می‌کنیم و سپس دو را کم می‌کنیم، پس پاسخ ده است."),
    ("ur", "پہلے ہم تین اعداد کو جمع کرتے ہیں اور پھر دو کو گھٹاتے ہیں، اس لیے جواب دس ہے۔"),
    ("he", "קודם נחבר את שלושת המספרים ואחר כך נחסיר שניים, לכן התשובה היא עשר."),
    ("hi", "पहले हम तीनों संख्याओं को जोड़ते हैं और फिर दो घटाते हैं, इसलिए उत्तर दस है।"),
    ("th", "ก่อนอื่นเราบวกเลขสามตัวเข้าด้วยกัน แล้วลบสองออก ดังนั้นคำตอบคือสิบ"),
    ("vi", "Trước hết ta cộng ba số lại với nhau, sau đó trừ đi hai, vậy kết quả là mười."),
    ("id", "Pertama kita jumlahkan ketiga bilangan itu, lalu kurangi dua, jadi hasilnya adalah sepuluh."),
    ("nl", "Eerst tellen we de drie getallen op en daarna trekken we er twee van af, dus het antwoord is tien."),
    ("pl", "Najpierw dodajemy trzy liczby, a potem odejmujemy dwa, więc wynik jest równy dziesięć."),
    ("tr", "Önce üç sayıyı toplarız, sonra ikiyi çıkarırız, yani sonuç on olur."),
    ("sv", "Först lägger vi ihop de tre talen och sedan drar vi bort två, alltså är svaret tio."),
    ("el", "Πρώτα προσθέτουμε τους τρεις αριθμούς και μετά αφαιρούμε δύο, άρα το αποτέλεσμα είναι δέκα."),
    ("en", "Prime factorization. Greatest common divisor. Simplify numerator. Combine fractions."),
    (
        "en",
        "[en]Okay, so I need to find how many positive integers less than [-]100[en] are divisible by three or five. "
        "Let me use inclusion and exclusion.\n\nMultiples of three: [-]\\lfloor 99/3 \\rfloor = 33[en]. Multiples of "
        "five: [-]19[en]. Multiples of both: [-]\\[ \\lfloor 99/15 \\rfloor = 6 \\][en]\n\nWait, did I count the "
        "bounds right? Ninety nine is included, one hundred is not. Good. So the total is [-]$33 + 19 - 6 = 46$[en]."
        "\n\nTherefore, the answer is [-]\\boxed{46}[en].",
    ),
    (
        "zh",
        "[zh]好，我需要求小于[-] 100 [zh]的正整数中能被三或五整除的个数。使用容斥原理。\n\n三的倍数有[-] $33$ [zh]个，"
        "五的倍数有[-] $19$ [zh]个，同时是两者的倍数有[-] $6$ [zh]个。\n\n等等，边界数对了吗？九十九包括在内，"
        "一百不包括。没问题，所以总数是[-] \\(33 + 19 - 6 = 46\\)[zh]。",
    ),
    ("de", "[de]Berechne die Wurzel aus [-]`n_max`[de] mit [-]np.sqrt(n_max)[de] und runde das Ergebnis ab."),
    ("fa", "اگر عدد زوج باشد، آن را بر دو تقسیم می‌کنیم؛ در غیر این صورت یک واحد به آن اضافه می‌کنیم."),
]

MIXED: list[Row] = [
    ("en", "[en]plus four is eleven, [zh]减三得八"),
    ("zh", "[zh]三加四得七，[en]minus two is five, [zh]加六得十一"),
    ("en", "[zh]加四得十一，减三得八，[en]plus one is nine, wait, [zh]加二得十一"),
    ("zh", "[zh]首先我们看第一个条件。[en]The sum of the digits is nine. [zh]所以这个数能被九整除。"),
    ("zh", "[zh]这个问题可以用[en] dynamic programming [zh]来解决，时间复杂度是线性的。"),
    ("en", "[en]The word [zh]数学[en] means mathematics, and [zh]数字[en] means number."),
    ("en", "[en]Okay, the user asks for the remainder. [zh]让我们先列出余数的规律。[en] So the answer is four."),
    ("ja", "[ja]まず合計を計算します。[en]The total is thirty two. [ja]したがって平均は八です。"),
    ("ko", "[ko]먼저 합을 구합니다. [en]Then we divide by two. [ko]그래서 답은 여섯입니다."),
    ("ru", "[ru]Сначала найдём сумму чисел. [en]Then divide it by two. [ru]Получаем шесть."),
    ("ar", "[ar]نجمع العددين أولا. [en]The sum is twelve. [ar]ثم نقسم على اثنين."),
    ("hi", "[hi]पहले हम योग निकालते हैं। [en]So the average is six."),
    ("th", "[th]ก่อนอื่นเราหาผลรวม [en]and then divide by two [th]ดังนั้นคำตอบคือหก"),
    ("en", "[en]Let me check this carefully. [ru]Число делится на три. [en]So yes, it is composite."),
    ("el", "[el]Το άθροισμα είναι δώδεκα. [en]Now we halve it. [el]Άρα έχουμε έξι."),
    ("de", "[de]Zuerst addieren wir die Zahlen. [en]Then we divide the sum by two. [de]Das Ergebnis ist sechs."),
    ("es", "[es]Primero sumamos los números. [en]Then we divide by two. [es]El resultado es seis."),
    (
        "fr",
        "[fr]On commence par additionner les nombres. [en]This gives us twelve, which is even. [fr]La "
        "moyenne est donc six.",
    ),
    (
        "en",
        "[en]Let me add the numbers first. [fr]Cela donne douze. [en]Now divide it by two and check the answer.",
    ),
    (
        "en",
        "[en]We know that the angle is right. [de]Nach dem Satz des Pythagoras gilt die Gleichung. [en]So "
        "the side is five.",
    ),
    (
        "it",
        "[it]Sommiamo prima tutti i numeri della lista. [en]The total should be twelve. [it]Poi dividiamo per due.",
    ),
    (
        "pt",
        "[pt]Vamos somar os números primeiro. [es]Entonces el total es igual a doce. [pt]Depois dividimos por dois.",
    ),
    (
        "es",
        "[es]El perímetro es la suma de los lados. [pt]Então não há outra solução. [es]La respuesta es veinte.",
    ),
    (
        "nl",
        "[nl]We tellen eerst de getallen bij elkaar op. [de]Danach teilen wir die Summe durch zwei. "
        "[nl]Het antwoord is zes.",
    ),
    ("vi", "[vi]Ta cộng các số lại với nhau. [en]The sum is twelve, so divide by two. [vi]Vậy đáp án là sáu."),
    (
        "fr",
        "[fr]Soit [-]$n$[fr] un entier. [it]Se il numero è pari, lo dividiamo per due. [fr]Sinon on ajoute un.",
    ),
    ("de", "[de]Wir addieren die beiden Zahlen, [en]which gives us twelve, [de]und dann teilen wir durch zwei."),
    ("es", "[es]Sumamos los dos lados, [en]then we multiply by the height, [es]y obtenemos el área."),
    ("en", "[en]plus three is seven, [de]minus zwei ergibt fünf, [en]plus one is six"),
    ("de", "[de]Ich denke [en]that the answer is twelve because we have [de]drei mal vier und das ist zwölf."),
    ("zh", "[zh]我们先求和。[ja]それから二で割ります。[zh]所以结果是六。"),
    ("ja", "[ja]最初に足し算をします。[zh]然后我们除以二，这样就得到平均数。[ja]答えは六です。"),
    (
        "ru",
        "[ru]Сначала сложим все числа, это будет двенадцать. [uk]Потім поділимо суму на два, і відповідь буде шість.",
    ),
    ("ar", "[ar]نحن نجمع كل الأعداد في هذه القائمة. [fa]سپس مجموع را بر دو تقسیم می‌کنیم و پاسخ شش است."),
    (
        "zh",
        "[zh]先看代码：[-]```python\nprint(sum(range(10)))\n```[zh]输出是四十五。[en]So the claim holds. [ru]Значит, "
        "ответ верный.",
    ),
    (
        "en",
        "[en]Let [-]$f(x) = x^2$[en]. The derivative is [-]$2x$[en], and [zh]因此斜率是四[en]. [es]Por lo tanto "
        "la recta es tangente.",
    ),
    ("de", "[de]zuerst addieren wir beide Zahlen [en]and then we divide the result by two [de]also ist es sechs"),
    ("en", "[en]Let me start again. [zh]我们知道[-] $a+b=7$[zh]，[en]and the product is twelve. [zh]所以解为三和四。"),
    ("fr", "[fr]Calculons la moyenne. [es]Sumamos todos los valores. [en]Divide by the count. [fr]Voilà le résultat."),
    ("ru", "[ru]Пусть [-]x[ru] равно пяти. [bg]След това получаваме десет, защото са две. [ru]Ответ неверный."),
    # no small word says what the other language is
    (
        "en",
        "[en]Let me restate the plan. [de]Quadratzahlen berechnen, Teiler sorgfältig auflisten, Ergebnisse "
        "vergleichen. [en]That is all we need.",
    ),
    (
        "ru",
        "[ru]Сначала запишем условие задачи. [uk]Обчислюємо добуток цілих чисел, перевіряємо знайдені множники. "
        "[ru]Теперь всё готово.",
    ),
]
