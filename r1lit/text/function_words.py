"""Small words that say which language a clause is in: articles, pronouns, auxiliaries, numbers, words of sums.

A word common in two languages stands in both lists, so that only what tells them apart speaks for one of them. A key
that ends in an apostrophe is an elided article or pronoun ("l'" of "l'eau").
"""

from __future__ import annotations

from functools import cache

LATIN = {
    "en": "the of and to in is are was were be been it it's its this that that's these those we I you he she"
    " they our your my his her their us me him them what which who where when why how not don't doesn't"
    " isn't can't i'm we're you're he's she's there's a an for on with as at by from so but or if then"
    " than because since therefore thus hence let let's have has had do does did will would can could"
    " should must may might about into over after before between each all any some no yes only also more"
    " most less same other another first second third next last now here there too very just again wait"
    " okay ok get gives give means need want know think see one two three four five six seven eight nine"
    " ten eleven twelve zero plus minus times both still hello thanks please compute calculate evaluate"
    " solve find simplify",
    "de": "der die das den dem des ein eine einen einem einer eines und oder aber nicht ist sind war waren wird"
    " werden wurde sein haben hat hatte ich du er sie es wir ihr uns mich mir dich dir ihm ihn ihnen mein"
    " dein unser ihre seine zu zum zur von vom mit auf für im in an am bei nach aus über unter durch gegen"
    " ohne um als wie wenn dann denn weil dass daß also so auch noch nur schon mehr sehr hier dort da nun"
    " jetzt immer man kann können muss müssen soll sollte will was wer wo warum welche dieser diese dieses"
    " jede alle beide kein keine ergibt gleich zuerst danach daher deshalb somit damit gibt null eins zwei"
    " drei vier fünf sechs sieben acht neun zehn elf zwölf plus minus mal ja nein doch zwischen zwar bitte"
    " danke hallo summe zahl zahlen antwort lautet berechne berechnen löse finde",
    "fr": "le la les l' un une des du de d' et ou où mais ne n' pas est sont était étaient être a à ai as avons"
    " avez ont avait je j' tu il elle on nous vous ils elles me m' te t' se s' lui leur leurs mon ton son"
    " ma ta sa mes tes ses notre votre nos vos ce c' cet cette ces cela ça qui que qu' quoi dont quel"
    " quelle dans en sur sous avec sans pour par au aux chez entre vers si donc alors car puis ensuite"
    " d'abord comme plus moins très bien aussi encore tout tous toute toutes même fait faut peut doit sera"
    " voici voilà ici là oui non zéro deux trois quatre cinq six sept huit neuf dix onze douze chaque"
    " parce lorsque quand bonjour merci égal égale nombre réponse obtient calcule calculez calculons"
    " calculer résous résoudre trouver trouve combien font",
    "es": "el la los las un una unos unas de del al a y e o u pero no es son era eran ser estar está están fue"
    " ha han hay he hemos yo tú él ella nosotros ustedes ellos ellas me te se le les lo nos mi tu su sus"
    " nuestro este esta esto estos estas ese esa eso aquel que qué quién cuál cuando cuándo donde dónde"
    " cómo como cuánto cuántos cuánta cuántas en con sin por para entre sobre hasta desde hacia si sí"
    " entonces porque pues luego después antes ahora aquí allí así también más menos muy bien ya todo"
    " todos toda todas cada otro otra mismo tiene tenemos puede podemos debe primero segundo cero uno dos"
    " tres cuatro cinco seis siete ocho nueve diez once doce igual número respuesta obtenemos suma hola"
    " gracias tanto calcula calcular calculamos resuelve halla encuentra",
    "pt": "o a os as um uma uns umas de do da dos das no na nos nas ao aos à às e ou mas não é são era eram ser"
    " estar está estão foi há tem temos têm eu tu ele ela nós vocês você eles elas me te se lhe lhes meu"
    " minha seu sua seus suas nosso nossa este esta isto esse essa isso aquele aquela que quem qual quando"
    " onde como quanto quantos em com sem por pelo pela para entre sobre até desde sim então porque pois"
    " depois antes agora aqui ali assim também mais menos muito bem já tudo todos toda todas cada outro"
    " outra mesmo pode podemos deve primeiro segundo zero dois duas três quatro cinco seis sete oito nove"
    " dez onze doze igual número resposta obtemos soma olá obrigado portanto logo calcule calcular"
    " calculamos resolva encontre",
    "it": "il lo la i I gli le l' un uno una di del dello della dei degli delle d' a al allo alla ai alle da"
    " dal dalla in nel nella nei nelle su sul sulla con per tra fra e ed o ma non è sono era erano essere"
    " ho hai ha abbiamo hanno io tu lui lei noi voi loro mi ti si ci vi ne mio tuo suo nostro questo"
    " questa questi queste quello quella che chi cui cosa quale quando dove come quanto quanti perché"
    " poiché se sì no quindi allora poi prima dopo adesso ora qui così anche più meno molto bene già tutto"
    " tutti tutte ogni altro altra stesso può possiamo deve dobbiamo zero due tre quattro cinque sei sette"
    " otto nove dieci undici dodici uguale numero risposta otteniamo somma ciao grazie dunque c'è dell'"
    " nell' all' dall' sull' quell' calcola calcolare calcoliamo risolvi trova",
    "nl": "de het een en of maar niet is zijn was waren wordt worden ben bent heeft hebben had ik jij je u hij"
    " zij ze wij we jullie hun hem haar mijn jouw uw ons onze me mij van voor met op in aan bij naar uit"
    " over onder door tegen zonder om als dan dus omdat want dat die dit deze wat wie waar hoe welke"
    " wanneer ook nog al er hier daar nu zo te tot geen meer minder veel zeer elke alle alleen kan kunnen"
    " moet moeten zal zou eerst daarna daarom geeft nul één twee drie vier vijf zes zeven acht negen tien"
    " elf twaalf plus min keer gelijk antwoord getal som totaal ja nee bereken los vind hoeveel",
    "sv": "och att det den de en ett är var som på av för med till från i om inte har hade ska kan vi jag du"
    " han hon ni dem sig sin min din vår men eller så när där här vad vilken hur också bara mer mycket"
    " alla varje sedan eftersom därför får ger blir noll två tre fyra fem sex sju åtta nio tio svaret"
    " talet summan först beräkna lös hitta",
    "da": "og at det den de en et er var som på af for med til fra i om ikke har havde skal kan vi jeg du han"
    " hun dem sig sin min din vores men eller så når der her hvad hvilken hvor også kun mere meget alle"
    " hver derefter fordi derfor får giver bliver nul to tre fire fem seks syv otte ni ti svaret tallet"
    " summen først beregn løs find",
    "no": "og at det den de en et er var som på av for med til fra i om ikke har hadde skal kan vi jeg du han"
    " hun dem seg sin min din vår men eller så når der her hva hvilken hvor også bare mer mye alle hver"
    " deretter fordi derfor får gir blir null to tre fire fem seks sju åtte ni ti svaret tallet summen"
    " først beregn løs finn",
    "fi": "ja on ei se että hän minä sinä me te he tämä tuo nämä joka mikä mitä kuka missä kun jos niin mutta"
    " tai vai koska siis sitten nyt myös vain kuin ovat oli olivat ole olla voi pitää meidän sen kaikki"
    " ensin nolla yksi kaksi kolme neljä viisi kuusi seitsemän kahdeksan yhdeksän kymmenen vastaus luku"
    " summa saadaan laske ratkaise paljonko",
    "pl": "i w na z do nie się jest są to że jak ale lub albo czy co kto gdzie kiedy dlaczego który która które"
    " ten ta te tego tej tym ja ty on ona my wy oni mój twój nasz był była było być ma mamy mają może musi"
    " po od za przez dla przy o u więc ponieważ bo potem najpierw teraz tutaj tak już tylko też także"
    " bardzo więcej każdy zero jeden dwa trzy cztery pięć sześć siedem osiem dziewięć dziesięć równa"
    " liczba odpowiedź wynosi suma oblicz rozwiąż znajdź ile",
    "cs": "a i v na z do ne se je jsou to že jak ale nebo co kdo kde kdy proč který která které ten ta tento já"
    " ty on ona my vy oni můj tvůj náš byl byla bylo být má máme mají může musí po od za pro při o u s k"
    " tak protože potom nejprve nyní teď zde už jen také velmi více každý nula jedna dva tři čtyři pět"
    " šest sedm osm devět deset rovná číslo odpověď součet dostaneme vypočítej spočítej kolik najdi",
    "ro": "și si în la de cu pe din pentru este sunt era nu că să se un o al ai ale care ce cine unde când cum"
    " dar sau dacă atunci deci deoarece apoi acum aici mai foarte toate fiecare acest această aceste eu tu"
    " el ea noi voi ei lui avem are au poate trebuie zero unu doi două trei patru cinci șase șapte opt"
    " nouă zece egal număr răspunsul suma obținem calculează cât rezolvă găsește",
    "tr": "ve bir bu şu o ne için ile de da mi mı değil var yok çok daha en gibi kadar ama veya çünkü sonra"
    " önce şimdi burada her hangi nasıl neden kaç ben sen biz siz onlar olarak olan olur oldu ise eğer"
    " yani böylece sıfır iki üç dört beş altı yedi sekiz dokuz on artı eksi eşittir sayı cevap toplam elde"
    " ederiz hesapla bul çöz eder kaçtır",
    "id": "yang dan di ke dari untuk dengan adalah ini itu tidak akan pada atau tetapi juga saya kamu dia kita"
    " kami mereka apa siapa mana kapan mengapa bagaimana berapa karena jadi maka jika kemudian lalu"
    " sekarang sudah lebih semua setiap bisa dapat harus ada nol satu dua tiga empat lima enam tujuh"
    " delapan sembilan sepuluh tambah kurang sama bilangan jawaban jumlah hitung hitunglah selesaikan"
    " tentukan",
    "vi": "là và của có không được một những các cho với này đó trong khi từ đến ở ra vào thì mà nên vì nếu như"
    " để tôi bạn anh chị chúng ta họ nó gì ai đâu nào sao bao nhiêu rồi cũng đã đang sẽ phải cần tất cả"
    " mỗi hai ba bốn năm sáu bảy tám chín mười cộng trừ nhân chia bằng số đáp án tổng vậy trước sau tiếp"
    " theo lấy tính hãy giải tìm",
    "hu": "a az és hogy nem is van volt ez ezt azt egy meg csak már de vagy ha akkor mert mint ki mi hol mikor"
    " miért hány tehát ezért majd most itt ott nagyon minden én te ő ti ők lesz kell lehet nulla kettő"
    " három négy öt hat hét nyolc kilenc tíz összeg szám válasz először számold számítsd mennyi",
    "ca": "el la els les un una uns unes de del dels al i o però no és són era ser està amb per què que qui"
    " quan on com si llavors perquè doncs després ara aquí així també més molt tot tots cada altre aquest"
    " aquesta això jo tu ell ella nosaltres tenim hi ha dos tres quatre cinc sis set vuit nou deu resposta"
    " nombre suma calcula quant",
    "hr": "i u na je se da su to nije ne za od do s sa kao ali ili što koji koja koje kad kada gdje zašto jer"
    " zatim onda sada ovdje vrlo više svaki ja ti on ona mi vi oni biti bio bila ima imamo može treba nula"
    " jedan dva tri četiri pet šest sedam osam devet deset broj odgovor zbroj dakle prvo izračunaj koliko",
    "sk": "a i v na z do nie sa je sú to že ako ale alebo čo kto kde kedy prečo ktorý ktorá ktoré ten tá toto"
    " ja ty on ona my vy oni bol bola bolo byť má máme môže musí po od za pre pri o s k tak pretože potom"
    " najprv teraz tu už len tiež veľmi viac každý nula jeden dva tri štyri päť šesť sedem osem deväť"
    " desať číslo odpoveď súčet dostaneme vypočítaj koľko",
    "sl": "in v na je se da so to ni ne za od do s z kot ali pa kaj kdo kje kdaj zakaj ki ker nato potem zdaj"
    " tukaj zelo več vsak jaz ti on ona mi vi oni biti bil bila ima imamo lahko mora nič ena dva tri štiri"
    " pet šest sedem osem devet deset število odgovor vsota torej najprej izračunaj koliko",
    "et": "ja on ei see et ta ma sa me te nad mis kes kus kui siis aga või sest nii ka ainult nüüd siin väga"
    " rohkem iga oli olid olla saab peab kõik kõigepealt null üks kaks kolm neli viis kuus seitse kaheksa"
    " üheksa kümme vastus arv summa",
    "lt": "ir yra ne kad tai į iš su nuo iki apie už per kaip bet ar kas kur kada kodėl nes todėl tada dabar"
    " čia labai daugiau kiekvienas aš tu jis ji mes jūs jie buvo būti turi gali reikia nulis vienas du"
    " trys keturi penki šeši septyni aštuoni devyni dešimt skaičius atsakymas suma pirmiausia",
    "lv": "un ir nav ka tas tā no uz ar par pie līdz kā bet vai kas kur kad kāpēc jo tāpēc tad tagad šeit ļoti"
    " vairāk katrs es tu viņš viņa mēs jūs viņi bija būt var vajag nulle viens divi trīs četri pieci seši"
    " septiņi astoņi deviņi desmit skaitlis atbilde summa vispirms",
    "af": "die en van is nie het 'n dat dit wat in op vir met om te sal kan ek jy hy sy ons julle hulle was"
    " maar as dan want ook net hier daar baie meer elke nul een twee drie vier vyf ses sewe agt nege tien"
    " antwoord getal som eerste daarna",
    "tl": "ang ng mga sa na ay at ko mo ka siya tayo kami kayo sila ito iyon hindi kung kaya dahil para may"
    " mayroon ano sino saan kailan bakit paano ilan lang din rin pa po isa dalawa tatlo apat lima anim"
    " pito walo siyam sampu sagot kabuuan",
    "sw": "ya na wa kwa ni za la katika hii hiyo huo si kama lakini au kwamba nini nani wapi lini vipi ngapi"
    " kisha sasa hapa sana zaidi kila mimi wewe yeye sisi ninyi wao ana tuna moja mbili tatu nne tano sita"
    " saba nane tisa kumi jibu jumla",
    "cy": "y yr yn a ac i o ar mae nid oes yw oedd bod am gan wedi fel ond neu beth pwy ble pryd pam sut faint"
    " felly wedyn nawr yma iawn mwy pob fi ti ef hi ni chi nhw un dau tri pedwar pump chwech saith wyth"
    " naw deg ateb rhif",
    "so": "waa iyo ka ku oo in ah u la si wax ay uu aan waxa waxaa ma maxaa yaa halkee goorma sidee immisa"
    " laakiin ama haddii markaas hadda halkan aad hal laba saddex afar shan lix toddoba siddeed sagaal"
    " toban jawaabta",
    "sq": "dhe në e të i një është janë nuk që për me nga si por ose nëse atëherë sepse çfarë kush ku kur pse"
    " sa këtu tani shumë çdo unë ti ai ajo ne ju ata ka kemi mund duhet zero dy tre katër pesë gjashtë"
    " shtatë tetë nëntë dhjetë numri përgjigja shuma",
}

CYRILLIC = {
    "ru": "и в не на я что он она оно они мы вы ты с со как это этот эта эти то все всё но да же по за к у из"
    " от о об для так если или ни был была было были быть есть нет его её их мне нас вас когда где кто"
    " какой сколько почему потому чтобы поэтому затем потом сначала теперь тогда уже ещё только также"
    " очень можно нужно каждый ноль один два три четыре пять шесть семь восемь девять десять плюс минус"
    " равно число ответ сумма получаем значит вычисли вычислите найди найдите реши решите посчитай"
    " посчитайте чему",
    "uk": "і й та в у не на я що він вона воно вони ми ви ти з із зі як це цей ця ці все але да ж по за до від"
    " о про для так якщо або ні був була було були бути є немає його її їх мені нас вас коли де хто який"
    " яка скільки чому тому щоб отже потім спочатку тепер тоді вже ще тільки також дуже можна треба кожен"
    " нуль один два три чотири п'ять шість сім вісім дев'ять десять плюс мінус дорівнює число відповідь"
    " сума отримуємо обчисли обчисліть знайди знайдіть розв'яжи розв'яжіть",
    "bg": "и в във не на аз че той тя то те ние вие ти с със как това този тази тези всичко но да же по за към"
    " у от о при така ако или нито беше бяха бъде е са няма има го я ги ми ни ви му им кога къде кой коя"
    " колко защо защото затова тогава първо сега вече още само също много може трябва всеки нула едно един"
    " две три четири пет шест седем осем девет десет плюс минус равно число отговор сумата получаваме ще"
    " се си който която което които изчисли изчислете намери намерете реши",
    "mk": "и во не на јас што тој таа тоа тие ние вие ти со како ова овој оваа овие сѐ но да по за кон од при"
    " така ако или беше бидат е се нема има го ја ги ми ни му им кога каде кој која колку зошто затоа"
    " потоа прво сега веќе уште само исто многу може треба секој нула еден една две три четири пет шест"
    " седум осум девет десет ќе",
}

ARABIC = {
    "ar": "من في على إلى عن مع هذا هذه ذلك تلك التي الذي أن إن كان كانت هو هي هم نحن أنا أنت لا ما لم لن قد كل"
    " بعد قبل ثم أو و لأن إذا كيف كم أين متى لماذا عند بين حتى أيضا أيضًا إذن الآن أولا أولًا يساوي واحد"
    " اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة عشرة زائد ناقص الجواب العدد لذلك نحصل هناك فقط أكثر ليس"
    " احسب أوجد حل ناتج",
    "fa": "و در به از که این آن را با برای است بود هست نیست می‌شود می‌کنیم شود کنیم شد ما من تو او آنها یا اگر"
    " پس سپس چون زیرا چه چند کجا کی چرا چگونه هر همه تا بر هم نیز یک دو سه چهار پنج شش هفت هشت نه ده صفر"
    " باید داریم دارد عدد پاسخ جواب برابر ابتدا اکنون بعد بین فقط بیشتر حساب محاسبه کن کنید چقدر",
    "ur": "اور کے کی کا کو میں سے ہے ہیں تھا تھے تھی نہیں یہ وہ ہم آپ نے پر بھی تو کہ جو اگر پھر یا لیکن کیونکہ"
    " کیا کون کہاں کب کیوں کیسے کتنا کتنے کتنی ہر سب تک لیے ایک دو تین چار پانچ چھ سات آٹھ نو دس صفر جمع"
    " منفی برابر جواب عدد اس ان ہوتا ہوتے ہوگا کرتے کریں پہلے اب بعد صرف زیادہ معلوم حساب حل",
}

DEVANAGARI = {
    "hi": "है हैं था थे थी का के की को में से पर ने और या नहीं यह वह ये वे हम मैं तुम आप तो ही भी कि जो अगर यदि"
    " फिर लेकिन क्योंकि क्या कौन कहाँ कब क्यों कैसे कितना कितने कितनी हर सब तक लिए एक दो तीन चार पाँच छह"
    " सात आठ नौ दस शून्य उत्तर इसलिए इस उस अब पहले बाद केवल होता होगा करते करें ज्ञात हल गणना",
    "mr": "आहे आहेत होता होते होती चा चे ची ला मध्ये ने आणि किंवा नाही हा ही हे तो ती ते आम्ही मी तुम्ही आपण तर"
    " च पण की जो जर मग कारण काय कोण कुठे केव्हा का कसे किती प्रत्येक सर्व पर्यंत साठी एक दोन तीन चार पाच"
    " सहा सात आठ नऊ दहा शून्य उत्तर म्हणून या त्या आता आधी नंतर फक्त मिळते",
    "ne": "छ छन् थियो थिए को का की लाई मा ले र वा छैन यो त्यो यी ती हामी म तिमी तपाईं त नै पनि कि जो यदि अनि तर"
    " किनभने के कहाँ कहिले किन कसरी कति हरेक सबै सम्म लागि एक दुई तीन चार पाँच सात आठ नौ दस शून्य उत्तर"
    " त्यसैले यस त्यस अब पहिले पछि",
}

FAMILIES = {"latin": LATIN, "cyrillic": CYRILLIC, "arabic": ARABIC, "devanagari": DEVANAGARI}


@cache
def speaking_for(script: str) -> dict[str, tuple[str, ...]]:
    """The languages that each small word of a script belongs to, by lower-case word.

    >>> speaking_for("latin")["the"], speaking_for("latin")["también"], speaking_for("latin")["cinco"]
    (('en',), ('es',), ('es', 'pt'))
    """
    table: dict[str, tuple[str, ...]] = {}
    for language, listed in FAMILIES[script].items():
        for word in dict.fromkeys(listed.split()):
            table[word] = (*table.get(word, ()), language)
    return table
