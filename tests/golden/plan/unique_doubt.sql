--- Beyond ASCII only the server can tell what is equal: source order.
-- table o: id int key, sku text:utf8mb4_0900_ai_ci unique, price decimal null
-- update o (1, b'\xc3\xa9', None) -> (1, b'z', None)
-- update o (2, b'f', None) -> (2, b'e', None)
-- insert o (3, b'g', None)

UPDATE (VALUES ROW(1,'z',NULL)) AS n(c0,c1,c2) STRAIGHT_JOIN `o` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`sku`=n.c1,t.`price`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(2,'e',NULL)) AS n(c0,c1,c2) STRAIGHT_JOIN `o` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`sku`=n.c1,t.`price`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
INSERT INTO `o` (`id`,`sku`,`price`) VALUES (3,'g',NULL);
